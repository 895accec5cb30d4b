// A pool of threads that run one region together; the caller is thread 0.
#pragma once

#include <atomic>
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

    // Run region(thread) on every thread and wait for all.
    template <typename Region> void run(const Region &region) {
        run_erased([](const void *context, uint32_t thread) { (*static_cast<const Region *>(context))(thread); },
                   &region);
    }

    // All threads of the current region meet here; `thread` is the caller's number.
    void barrier(uint32_t thread);

private:
    using Entry = void (*)(const void *context, uint32_t thread);
    void run_erased(Entry entry, const void *context);
    void work(uint32_t thread);
    void arrive(uint32_t thread);
    void wait_for(uint32_t thread, uint32_t meeting);
    void stop();

    // How many meetings a thread has come to. Each on a cache line of its own, written by one thread and read by the
    // others: two threads that meet cost each other one line.
    struct alignas(64) Arrivals {
        std::atomic<uint32_t> count{0};
    };

    const uint32_t size_;
    std::vector<std::thread> workers_;
    Entry entry_ = nullptr;
    const void *context_ = nullptr;
    alignas(64) std::atomic<uint32_t> generation_{0}; // counts regions; workers wait for the next
    std::vector<Arrivals> arrivals_;
    alignas(64) std::atomic<uint32_t> sleepers_{0}; // threads that no longer spin
    std::atomic<bool> stop_{false};
    std::mutex mutex_;
    std::condition_variable wake_;
};

} // namespace ml
