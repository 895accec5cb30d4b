// Read bandwidth: the denominator of every efficiency we print.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <vector>

#include "context.h"
#include "error.h"

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double measure(uint32_t threads, uint64_t size_bytes, double seconds) {
    ml::require(threads >= 1 && threads <= ml::kMaxThreads, "threads ", threads, " is outside 1-", ml::kMaxThreads);
    ml::require(size_bytes >= 4096 && size_bytes <= (uint64_t{1} << 36), "a buffer of ", size_bytes,
                " bytes is outside 4 KiB to 64 GiB");
    ml::require(std::isfinite(seconds) && seconds > 0 && seconds <= 600, "the time is outside (0, 600] seconds");
    ml_context context(threads);
    const ml::Placed placed(context.placement);
    const size_t floats = size_bytes / sizeof(float) / 64 * 64, blocks = floats / 64;
    const std::unique_ptr<float[]> buffer(new float[floats]);
    std::vector<float> sums(threads * 16);
    const auto read_parts = [&](uint64_t passes) {
        context.pool.run(
            [&](uint32_t thread) {
                const size_t begin = blocks * thread / threads * 64, end = blocks * (thread + 1) / threads * 64;
                for (uint64_t pass = 0; pass < passes; pass++)
                    sums[thread * 16] += context.kernels.read(buffer.get() + begin, end - begin);
            },
            threads);
    };
    context.pool.run(
        [&](uint32_t thread) { // first touch by the reader, so that memory is near its core
            const size_t begin = blocks * thread / threads * 64, end = blocks * (thread + 1) / threads * 64;
            std::fill(buffer.get() + begin, buffer.get() + end, 1.0f);
        },
        threads);
    read_parts(1);
    // Enough passes per sample that the clock and the region cost nothing: at least 2 ms.
    uint64_t passes = 1;
    for (;; passes *= 2) {
        const Clock::time_point start = Clock::now();
        read_parts(passes);
        if (seconds_since(start) >= 2e-3 || passes >= (uint64_t{1} << 30)) break;
    }
    std::vector<double> samples;
    const Clock::time_point start = Clock::now();
    do {
        const Clock::time_point begin = Clock::now();
        read_parts(passes);
        samples.push_back(static_cast<double>(floats * sizeof(float) * passes) / seconds_since(begin) / 1e9);
    } while (seconds_since(start) < seconds || samples.size() < 3);
    float total = 0; // the sums must be used, or the reads could be dropped
    for (const float sum : sums) total += sum;
    ml::require(total > 0, "the bandwidth buffer was not read");
    std::nth_element(samples.begin(), samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2), samples.end());
    return samples[samples.size() / 2];
}

} // namespace

namespace ml {

double read_bandwidth(uint32_t threads, uint64_t size_bytes, double seconds) {
    return measure(threads, size_bytes, seconds);
}

} // namespace ml
