#include "measure/bandwidth.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "error.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

using namespace ml;

namespace {

constexpr uint64_t kLine = 64, kHugePage = uint64_t{2} << 20;
constexpr uint64_t kLeastBytes = 4096, kMostBytes = uint64_t{1} << 36;
constexpr double kSampleSeconds = 0.5e-3; // the clock costs nothing beside it, and many fit between two interruptions
// Reading so much evicts the rest, where the last-level cache is no larger than half of it.
constexpr uint64_t kUnknownCacheEvictor = uint64_t{64} << 20, kMostEvictor = uint64_t{256} << 20;

uint64_t checked_bytes(uint64_t bytes) {
    require(bytes >= kLeastBytes && bytes <= kMostBytes, "a buffer of ", bytes, " bytes is outside 4 KiB to 64 GiB");
    return bytes;
}

uint64_t up_to(uint64_t value, uint64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// From every cache of every core, back to memory.
void flush(const uint8_t *data, uint64_t bytes) {
#if defined(__x86_64__)
    _mm_mfence();
    for (uint64_t i = 0; i < bytes; i += kLine) _mm_clflush(data + i);
    _mm_mfence();
#elif defined(__aarch64__)
    for (uint64_t i = 0; i < bytes; i += kLine) asm volatile("dc civac, %0" ::"r"(data + i) : "memory");
    asm volatile("dsb sy" ::: "memory");
#else
    (void)data, (void)bytes;
#endif
}

uint64_t last_level_cache_bytes() {
    uint64_t largest = 0;
    for (const Cpu &cpu : read_topology("", allowed_cpus(), true).cpus)
        largest = std::max({largest, cpu.private_cache_bytes, cpu.shared_cache_bytes});
    return largest;
}

double median(std::vector<double> &values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

double seconds_between(std::chrono::steady_clock::time_point begin, std::chrono::steady_clock::time_point end) {
    return std::chrono::duration<double>(end - begin).count();
}

// Repeats `lap(count)`, which does a thing `count` times and returns the seconds it took, until the time is over, and
// gives value(seconds, count) of each; `count` grows until a lap is long enough for the clock. Cold laps cannot grow:
// doing a thing twice would find it warm.
template <typename Lap, typename Value>
std::vector<double> sampled(double seconds, size_t least, size_t most, bool grows, const Lap &lap, const Value &value) {
    using Clock = std::chrono::steady_clock;
    const Clock::time_point start = Clock::now();
    uint64_t count = 1;
    while (grows && lap(count) < kSampleSeconds && count < uint64_t{1} << 40) count *= 2;
    std::vector<double> samples;
    while (samples.size() < most && (samples.size() < least || seconds_between(start, Clock::now()) < seconds)) {
        const double took = lap(count);
        if (took > 0) samples.push_back(value(took, count));
    }
    return samples;
}

} // namespace

ml_memory::Pages::Pages(uint64_t bytes, bool huge) : mapped_bytes_(bytes + kHugePage) {
    mapping_ = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(mapping_ != MAP_FAILED, "this system gives no ", bytes, " bytes of memory to read; read less");
    data_ = reinterpret_cast<uint8_t *>(up_to(reinterpret_cast<uintptr_t>(mapping_), kHugePage));
#if defined(MADV_HUGEPAGE)
    madvise(mapping_, mapped_bytes_, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE); // a hint; small pages measure too
#else
    (void)huge;
#endif
}

ml_memory::Pages::~Pages() { munmap(mapping_, mapped_bytes_); }

ml_memory::ml_memory(uint64_t max_bytes, uint32_t threads, const uint32_t *cpus, uint32_t num_cpus, bool huge_pages)
    : context_(threads), max_bytes_(checked_bytes(max_bytes)),
      region_bytes_(up_to((max_bytes + threads - 1) / threads, kHugePage)), huge_pages_(huge_pages),
      pages_(region_bytes_ * threads, huge_pages), threads_(threads) {
    context_.placement.place(cpus, num_cpus);
    for (uint32_t i = 0; i < threads; i++) threads_[i].region = pages_.data() + i * region_bytes_;
}

// What both measurements refuse, and where they get what evicts.
void ml_memory::prepare(uint64_t size_bytes, uint32_t state, double seconds) {
    require(size_bytes >= kLeastBytes && size_bytes <= max_bytes_, "a working set of ", size_bytes,
            " bytes is outside 4 KiB to the ", max_bytes_, " bytes that the memory was made for");
    require(std::isfinite(seconds) && seconds > 0 && seconds <= 600, "the time is outside (0, 600] seconds");
    require(state <= ML_COLD_READ, "state ", state, " is none of 0 (warm), 1 (flushed) and 2 (evicted by reading)");
    require(state != ML_COLD_FLUSHED || *flush_instruction() != 0,
            "this processor has no instruction that evicts a line; evict by reading");
    if (state == ML_COLD_READ && !evictor_) {
        const uint64_t cache = last_level_cache_bytes();
        evictor_bytes_ = up_to(cache ? std::min(2 * cache, kMostEvictor) : kUnknownCacheEvictor, kHugePage);
        evictor_ = std::make_unique<Pages>(evictor_bytes_, huge_pages_);
        std::memset(evictor_->data(), 1, evictor_bytes_);
    }
}

void ml_memory::touch(uint32_t thread, uint64_t bytes) {
    Thread &own = threads_[thread];
    if (bytes <= own.touched) return;
    std::memset(own.region + own.touched, 1, bytes - own.touched);
    own.touched = bytes;
}

void ml_memory::evict(uint32_t thread, uint64_t bytes, uint32_t state) {
    if (state == ML_COLD_FLUSHED) flush(threads_[thread].region, bytes);
    if (state == ML_COLD_READ) context_.kernels.read(evictor_->data(), evictor_bytes_);
}

// From the first thread that begins to the last that ends: the rate of all together.
double ml_memory::read_once(uint64_t part, uint32_t state, uint64_t passes) {
    context_.pool.run(
        [&](uint32_t thread) {
            touch(thread, part);
            evict(thread, part, state);
            context_.pool.barrier(thread);
            Thread &own = threads_[thread];
            own.begin = Clock::now();
            for (uint64_t pass = 0; pass < passes; pass++) context_.kernels.read(own.region, part);
            own.end = Clock::now();
        },
        context_.pool.size());
    Clock::time_point begin = threads_[0].begin, end = threads_[0].end;
    for (const Thread &thread : threads_) begin = std::min(begin, thread.begin), end = std::max(end, thread.end);
    return seconds_between(begin, end);
}

std::vector<double> ml_memory::read(uint64_t size_bytes, uint32_t state, double seconds, size_t least, size_t most) {
    prepare(size_bytes, state, seconds);
    const uint64_t part = size_bytes / threads_.size() / kReadStep * kReadStep;
    require(part > 0, "a working set of ", size_bytes, " bytes is too small for ", threads_.size(),
            " threads; each needs at least ", kReadStep, " bytes");
    const Placed placed(context_.placement);
    return sampled(
        seconds, least, most, state == ML_WARM, [&](uint64_t passes) { return read_once(part, state, passes); },
        [&](double took, uint64_t passes) {
            return static_cast<double>(part * threads_.size() * passes) / took / 1e9;
        });
}

std::vector<double> ml_memory::chase(uint64_t size_bytes, uint32_t state, double seconds, size_t least, size_t most) {
    prepare(size_bytes, state, seconds);
    require(size_bytes <= region_bytes_, "a chase through ", size_bytes, " bytes does not fit the ", region_bytes_,
            " bytes of one thread; make the memory for fewer threads");
    const Placed placed(context_.placement);
    const uint64_t lines = size_bytes / kLine;
    if (linked_lines_ != lines) {
        touch(0, size_bytes);
        link_lines(threads_[0].region, lines);
        at_ = threads_[0].region;
        linked_lines_ = lines;
    }
    constexpr uint64_t kColdSteps = 8192; // of one lap: evicting a large set takes longer than chasing through a part
    const uint64_t steps = state == ML_WARM ? 256 : std::min(lines, kColdSteps);
    const auto lap = [&](uint64_t count) {
        evict(0, lines * kLine, state);
        void *at = at_;
        const Clock::time_point begin = Clock::now();
        for (uint64_t i = 0; i < count * steps; i++) {
            std::memcpy(&at, at, sizeof at);
            asm volatile("" : "+r"(at)); // the next load waits for this one, and none is left out
        }
        const Clock::time_point end = Clock::now();
        at_ = at;
        return seconds_between(begin, end);
    };
    return sampled(seconds, least, most, state == ML_WARM, lap,
                   [&](double took, uint64_t count) { return took / static_cast<double>(count * steps) * 1e9; });
}

namespace ml {

const char *flush_instruction() {
#if defined(__x86_64__)
    return "clflush";
#elif defined(__aarch64__)
    return "dc civac";
#else
    return "";
#endif
}

void link_lines(uint8_t *region, uint64_t lines) {
    const auto next = [&](uint64_t line) -> uint64_t & { return reinterpret_cast<uint64_t *>(region)[line * 8]; };
    for (uint64_t line = 0; line < lines; line++) next(line) = line;
    uint64_t random = 0x9E3779B97F4A7C15u;
    for (uint64_t line = lines - 1; line > 0; line--) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        std::swap(next(line), next((random >> 32) * line >> 32));
    }
    for (uint64_t line = 0; line < lines; line++) {
        void *const address = region + next(line) * kLine;
        std::memcpy(region + line * kLine, &address, sizeof address);
    }
}

double read_bandwidth(uint32_t threads, uint64_t size_bytes, double seconds) {
    ml_memory memory(size_bytes, threads, nullptr, 0, true);
    std::vector<double> samples = memory.read(size_bytes, ML_WARM, seconds, 3, 1u << 20);
    return median(samples);
}

} // namespace ml
