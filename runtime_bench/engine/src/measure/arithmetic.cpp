#include <algorithm>
#include <cmath>
#include <utility>

#include "error.h"
#include "measure/bandwidth.h"

using namespace ml;

namespace {

constexpr uint32_t kSteps = 16384; // of a lap: some 50 us, so that an interruption spoils few laps
constexpr size_t kLeastLaps = 3, kMostLaps = 4096;

// Eight chains that do not wait for each other, out of registers: they fill the issue slots of a core, which its two
// hardware threads share, and no memory is touched.
void compute() {
    uint64_t chains[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    auto &[a, b, c, d, e, f, g, h] = chains;
    for (uint32_t step = 0; step < kSteps; step++) {
        for (uint64_t *chain : {&a, &b, &c, &d, &e, &f, &g, &h}) *chain += 0x9e3779b97f4a7c15u, *chain ^= *chain >> 7;
        asm volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e), "+r"(f), "+r"(g), "+r"(h)); // as it is written
    }
}

} // namespace

// All threads at once; each gives the median over its own laps, which a few interruptions leave as it is.
std::vector<double> ml_memory::arithmetic(double seconds) {
    require(std::isfinite(seconds) && seconds > 0 && seconds <= 600, "the time is outside (0, 600] seconds");
    const Placed placed(context_.placement);
    std::vector<double> found(threads_.size());
    std::vector<std::vector<double>> places(threads_.size()); // made here: no thread of the pool may throw
    for (std::vector<double> &place : places) place.reserve(kMostLaps);
    context_.pool.run(
        [&](uint32_t thread) {
            std::vector<double> laps = std::move(places[thread]);
            context_.pool.barrier(thread);
            const Clock::time_point start = Clock::now();
            Clock::time_point begin = start, end = start;
            const auto since = [&](Clock::time_point then) {
                return std::chrono::duration<double>(end - then).count();
            };
            while (laps.size() < kMostLaps && (laps.size() < kLeastLaps || since(start) < seconds)) {
                compute();
                end = Clock::now();
                laps.push_back(since(begin));
                begin = end;
            }
            const auto middle = laps.begin() + static_cast<std::ptrdiff_t>(laps.size() / 2);
            std::nth_element(laps.begin(), middle, laps.end());
            found[thread] = *middle / kSteps * 1e9;
        },
        context_.pool.size());
    return found;
}
