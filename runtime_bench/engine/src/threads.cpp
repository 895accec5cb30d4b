#include "threads.h"

#include <climits>
#include <exception>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "error.h"

namespace ml {
namespace {

// Spinning covers the gaps between the phases of a block (20 to 100 us, as long as the processor's pause takes). A
// thread that waits longer sleeps: on a busy core a sleeper is run soon after it is woken, while one that yields goes
// to the end of the queue and costs the others a time slice at every barrier.
constexpr int kSpins = 2000;

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield" ::: "memory");
#endif
}

#if defined(__linux__)
static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t), "a futex is the bare word");

void sleep_while(std::atomic<uint32_t> &word, uint32_t value) {
    syscall(SYS_futex, reinterpret_cast<uint32_t *>(&word), FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}
void wake_sleepers(std::atomic<uint32_t> &word) {
    syscall(SYS_futex, reinterpret_cast<uint32_t *>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}
#else
void sleep_while(std::atomic<uint32_t> &, uint32_t) { std::this_thread::yield(); }
void wake_sleepers(std::atomic<uint32_t> &) {}
#endif

} // namespace

ThreadPool::ThreadPool(uint32_t threads) : size_(threads ? threads : 1), arrivals_(size_) {
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
    if (size_ == 1) return entry(context, 0);
    entry_ = entry;
    context_ = context;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    entry(context, 0);
    barrier(0); // the workers only arrive: they have nothing to wait for
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
        arrive(thread);
    }
}

void ThreadPool::barrier(uint32_t thread) {
    if (size_ == 1) return;
    arrive(thread);
    const uint32_t meeting = arrivals_[thread].count.load(std::memory_order_relaxed);
    for (uint32_t other = 0; other < size_; other++)
        if (other != thread) wait_for(other, meeting);
}

// A sleeper counts itself before it looks at the count for the last time, and whoever arrives looks at the sleepers
// after its count was changed: one of the two sees the other (both are sequentially consistent), so no wake-up is lost.
void ThreadPool::arrive(uint32_t thread) {
    std::atomic<uint32_t> &count = arrivals_[thread].count;
    count.store(count.load(std::memory_order_relaxed) + 1);
    if (sleepers_.load() != 0) wake_sleepers(count);
}

// Returns when the thread has come to that meeting, or to the next: it may be ahead by one.
void ThreadPool::wait_for(uint32_t thread, uint32_t meeting) {
    std::atomic<uint32_t> &count = arrivals_[thread].count;
    for (int spin = 0; spin < kSpins; spin++) {
        if (static_cast<int32_t>(count.load(std::memory_order_acquire) - meeting) >= 0) return;
        pause();
    }
    sleepers_.fetch_add(1);
    while (static_cast<int32_t>(count.load() - meeting) < 0) sleep_while(count, meeting - 1);
    sleepers_.fetch_sub(1);
}

} // namespace ml
