#include "threads.h"

#include <exception>

#include "error.h"

namespace ml {
namespace {

// About 20 us of spinning covers the gaps between phases of a block. After that a waiting thread gives its core
// away, so that a busy neighbour costs its share and no more.
constexpr int kSpins = 2000;

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield" ::: "memory");
#endif
}

template <typename Done> void wait_until(const Done &done) {
    for (int spin = 0; !done(); spin++) {
        if (spin < kSpins) {
            pause();
        } else {
            std::this_thread::yield();
        }
    }
}

} // namespace

ThreadPool::ThreadPool(uint32_t threads) : size_(threads ? threads : 1) {
    workers_.reserve(size_ - 1);
    try {
        for (uint32_t thread = 1; thread < size_; thread++) workers_.emplace_back([this, thread] { work(thread); });
    } catch (const std::exception &error) { // a limit of the system: end those that did start
        stop();
        throw Error(text(size_, " threads cannot be started: ", error.what()));
    }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stop_.store(true);
        generation_.fetch_add(1);
    }
    wake_.notify_all();
    for (std::thread &worker : workers_) worker.join();
}

void ThreadPool::run_erased(Entry entry, const void *context) {
    if (size_ > 1) {
        entry_ = entry;
        context_ = context;
        running_.store(size_ - 1, std::memory_order_relaxed);
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            generation_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
    }
    entry(context, 0);
    if (size_ > 1) wait_until([this] { return running_.load(std::memory_order_acquire) == 0; });
}

void ThreadPool::work(uint32_t thread) {
    uint32_t seen = 0;
    for (;;) {
        for (int spin = 0; spin < 4 * kSpins && generation_.load(std::memory_order_acquire) == seen; spin++) pause();
        if (generation_.load(std::memory_order_acquire) == seen) {
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
        }
        seen = generation_.load(std::memory_order_acquire);
        if (stop_.load()) return;
        entry_(context_, thread);
        running_.fetch_sub(1, std::memory_order_acq_rel);
    }
}

void ThreadPool::barrier() {
    if (size_ == 1) return;
    const uint32_t phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
        arrived_.store(0, std::memory_order_relaxed);
        phase_.fetch_add(1, std::memory_order_acq_rel);
        return;
    }
    wait_until([&] { return phase_.load(std::memory_order_acquire) != phase; });
}

} // namespace ml
