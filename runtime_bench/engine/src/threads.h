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

    // All threads of the current region meet here.
    void barrier();

private:
    using Entry = void (*)(const void *context, uint32_t thread);
    void run_erased(Entry entry, const void *context);
    void work(uint32_t thread);
    void wait_while(std::atomic<uint32_t> &word, uint32_t value);
    void announce(std::atomic<uint32_t> &word);
    void stop();

    const uint32_t size_;
    std::vector<std::thread> workers_;
    Entry entry_ = nullptr;
    const void *context_ = nullptr;
    alignas(64) std::atomic<uint32_t> generation_{0}; // counts regions; workers wait for the next
    alignas(64) std::atomic<uint32_t> running_{0};    // workers still inside the region
    alignas(64) std::atomic<uint32_t> arrived_{0};
    alignas(64) std::atomic<uint32_t> phase_{0};
    alignas(64) std::atomic<uint32_t> sleepers_{0}; // threads that no longer spin
    std::atomic<bool> stop_{false};
    std::mutex mutex_;
    std::condition_variable wake_;
};

} // namespace ml
