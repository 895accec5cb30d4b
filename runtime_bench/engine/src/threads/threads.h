// A pool of threads that run one region together; the caller is thread 0.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace ml {

class ThreadPool {
public:
    explicit ThreadPool(uint32_t threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool &) = delete;
    ThreadPool &operator=(const ThreadPool &) = delete;

    uint32_t size() const { return size_; }

    // How many threads the next region should use: all, or fewer for a while where threads were seen to wait for others
    // that did not run, because other processes want the cores too. Between regions only.
    uint32_t ready();
    // Always all: for an emulator, where waits say nothing of the cores.
    void keep_all() { keeps_all_ = true; }

    // Run region(thread) on threads 0 .. threads - 1, which may meet at barriers, and on the `helpers` threads behind
    // them, which may not; wait for all. threads + helpers is at most size().
    template <typename Region> void run(const Region &region, uint32_t threads, uint32_t helpers = 0) {
        run_erased([](const void *context, uint32_t thread) { (*static_cast<const Region *>(context))(thread); },
                   &region, threads, threads + helpers);
    }

    // The threads of the current region meet here; `thread` is the caller's number.
    void barrier(uint32_t thread);

private:
    using Entry = void (*)(const void *context, uint32_t thread);
    using Clock = std::chrono::steady_clock;
    // What one thread tells the others, on a cache line of its own: two threads that meet cost each other one line.
    struct alignas(64) Progress {
        std::atomic<uint32_t> meetings{0}; // barriers of this region it has come to
        std::atomic<uint32_t> left{0};     // the last call it has returned from
    };

    void run_erased(Entry entry, const void *context, uint32_t threads, uint32_t all);
    void work(uint32_t thread);
    void announce(std::atomic<uint32_t> &word, uint32_t value);
    void wait_for(std::atomic<uint32_t> &word, uint32_t value);
    void stop();

    const uint32_t size_;
    std::vector<std::thread> workers_;
    Entry entry_ = nullptr;
    const void *context_ = nullptr;
    uint32_t meeting_ = 1; // threads of the region that meet
    static constexpr uint32_t kCall = 512;
    alignas(64) std::atomic<uint32_t> call_{0}; // counts calls in steps of kCall, plus the threads that are called
    std::vector<Progress> progress_;
    alignas(64) std::atomic<uint32_t> sleepers_{0}; // threads that no longer spin
    std::atomic<uint64_t> stalled_us_{0};           // waits for threads that did not run
    std::atomic<bool> stop_{false};
    std::mutex mutex_;
    std::condition_variable wake_;

    // ready()
    uint32_t ready_;
    bool keeps_all_ = false;
    Clock::time_point window_{}, narrow_until_{};
    Clock::duration narrow_for_, waitable_{}; // waitable_: time in regions, of all threads but one
};

} // namespace ml
