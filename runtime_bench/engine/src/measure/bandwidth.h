// How fast this machine reads memory: the denominator of every efficiency we print.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <vector>

#include "loop/context.h"

namespace ml {

// The instruction that evicts a line from every cache; empty where a program has none.
const char *flush_instruction();

// Writes into each of the lines of 64 bytes (at least one, at most 2^32) the address of another: one cycle through all
// in random order, so that no prefetcher knows the next (Sattolo's shuffle, which always makes a single cycle).
void link_lines(uint8_t *region, uint64_t lines);

// Median GB/s of `threads` threads that read their parts of one buffer again and again.
double read_bandwidth(uint32_t threads, uint64_t size_bytes, double seconds);

} // namespace ml

// One region of memory per thread, touched first by that thread so that it is near its core, and only as far as it is
// read. Every measurement uses the first bytes of the regions, so that one buffer serves all sizes.
struct ml_memory {
    ml_memory(uint64_t max_bytes, uint32_t threads, const uint32_t *cpus, uint32_t num_cpus, bool huge_pages);

    // GB/s, one sample per half a millisecond of reading; no more than `most` and no fewer than `least` of them.
    std::vector<double> read(uint64_t size_bytes, uint32_t state, double seconds, size_t least, size_t most);
    // Nanoseconds of one load whose address is the result of the load before, in the region of thread 0.
    std::vector<double> chase(uint64_t size_bytes, uint32_t state, double seconds, size_t least, size_t most);

    uint32_t threads() const { return context_.pool.size(); }
    // Nanoseconds of one step of a fixed loop of arithmetic, by thread, all threads at once (arithmetic.cpp).
    std::vector<double> arithmetic(double seconds);

    std::atomic<bool> busy{false};

private:
    using Clock = std::chrono::steady_clock;
    struct alignas(64) Thread {
        uint8_t *region = nullptr;
        uint64_t touched = 0; // bytes of the region
        Clock::time_point begin{}, end{};
    };
    // Pages of its own, given back at the end.
    class Pages {
    public:
        Pages(uint64_t bytes, bool huge);
        ~Pages();
        Pages(const Pages &) = delete;
        Pages &operator=(const Pages &) = delete;
        uint8_t *data() const { return data_; } // on the border of a huge page

    private:
        void *mapping_;
        size_t mapped_bytes_;
        uint8_t *data_;
    };

    void prepare(uint64_t size_bytes, uint32_t state, double seconds);
    void touch(uint32_t thread, uint64_t bytes);
    void evict(uint32_t thread, uint64_t bytes, uint32_t state);
    double read_once(uint64_t part, uint32_t state, uint64_t passes);

    ml_context context_;
    const uint64_t max_bytes_, region_bytes_;
    const bool huge_pages_;
    Pages pages_;
    std::vector<Thread> threads_;
    std::unique_ptr<Pages> evictor_; // what is read to evict, and how much
    uint64_t evictor_bytes_ = 0;
    uint64_t linked_lines_ = 0; // of the chain that lies in region 0 now
    void *at_ = nullptr;        // where the chase of that chain stopped
};
