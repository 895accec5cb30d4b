#include "threads/threads.h"

#include <algorithm>
#include <climits>
#include <exception>
#include <utility>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "error.h"

namespace ml {
namespace {

// Spinning covers the gaps between the phases of a block. A thread that waits longer sleeps: on a busy core a sleeper
// is run soon after it is woken, while one that yields goes to the end of the queue. By the clock, since a pause takes
// from one cycle to 140.
constexpr auto kSpin = std::chrono::microseconds(100);

// A thread that has to sleep most likely waits for one that does not run (or for one with far more to do, which looks
// the same). Where such waits are more than a quarter of the time that the threads had in regions, one thread fewer
// runs for a while, twice as long each time it is no better afterwards (docs/lab-log.md).
constexpr auto kWindow = std::chrono::milliseconds(16);
constexpr auto kNarrowAtLeast = std::chrono::milliseconds(64), kNarrowAtMost = std::chrono::milliseconds(1024);

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

// Spins until done() or the time is over; whether it is done.
template <typename Done> bool spin(std::chrono::steady_clock::duration time, const Done &done) {
    const auto start = std::chrono::steady_clock::now();
    do {
        for (int i = 0; i < 64; i++) {
            if (done()) return true;
            pause();
        }
    } while (std::chrono::steady_clock::now() - start < time);
    return false;
}

} // namespace

ThreadPool::ThreadPool(uint32_t threads)
    : size_(threads ? threads : 1), progress_(size_), ready_(size_), narrow_for_(kNarrowAtLeast) {
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
        call_.fetch_add(kCall);
    }
    wake_.notify_all();
    for (std::thread &worker : workers_) worker.join();
}

uint32_t ThreadPool::ready() {
    if (size_ == 1 || keeps_all_) return size_;
    const Clock::time_point now = Clock::now();
    if (ready_ < size_) { // narrow: try all again when the time is over
        if (now < narrow_until_) return ready_;
        ready_ = size_;
        window_ = now;
        stalled_us_.store(0);
        waitable_ = {};
    } else if (const auto passed = now - window_; passed >= kWindow) {
        const auto stalled = std::chrono::microseconds(stalled_us_.exchange(0));
        window_ = now;
        const Clock::duration waitable = std::exchange(waitable_, Clock::duration{});
        if (stalled * 4 > waitable) {
            ready_ = size_ - 1;
            narrow_until_ = now + narrow_for_;
            narrow_for_ = std::min<Clock::duration>(2 * narrow_for_, kNarrowAtMost);
        } else {
            narrow_for_ = kNarrowAtLeast;
        }
    }
    return ready_;
}

void ThreadPool::run_erased(Entry entry, const void *context, uint32_t threads, uint32_t all) {
    meeting_ = threads;
    if (all == 1) return entry(context, 0);
    entry_ = entry;
    context_ = context;
    for (uint32_t thread = 0; thread < all; thread++) progress_[thread].meetings.store(0, std::memory_order_relaxed);
    uint32_t call;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        call = (call_.load(std::memory_order_relaxed) / kCall + 1) * kCall + all;
        call_.store(call, std::memory_order_release);
    }
    wake_.notify_all();
    const Clock::time_point start = Clock::now();
    entry(context, 0);
    for (uint32_t thread = 1; thread < all; thread++) wait_for(progress_[thread].left, call);
    waitable_ += (Clock::now() - start) * (threads - 1);
}

// A worker that is not part of a region is not waited for, and so must not look at what belongs to the region.
void ThreadPool::work(uint32_t thread) {
    for (uint32_t seen = 0;;) {
        const auto called = [&] { return call_.load(std::memory_order_acquire) != seen; };
        if (!spin(4 * kSpin, called)) {
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, called);
        }
        seen = call_.load(std::memory_order_acquire);
        if (stop_.load()) return;
        if (thread >= seen % kCall) continue;
        entry_(context_, thread);
        announce(progress_[thread].left, seen);
    }
}

void ThreadPool::barrier(uint32_t thread) {
    if (meeting_ == 1) return;
    std::atomic<uint32_t> &own = progress_[thread].meetings;
    const uint32_t meeting = own.load(std::memory_order_relaxed) + 1;
    announce(own, meeting);
    for (uint32_t other = 0; other < meeting_; other++)
        if (other != thread) wait_for(progress_[other].meetings, meeting);
}

// A sleeper counts itself before it looks at the word for the last time, and a word is changed before the sleepers are
// looked at: one of the two sees the other (both are sequentially consistent), so no wake-up is lost.
void ThreadPool::announce(std::atomic<uint32_t> &word, uint32_t value) {
    word.store(value);
    if (sleepers_.load() != 0) wake_sleepers(word);
}

// Returns when the word has the value, or is one ahead, as a thread may be that has come to the next barrier.
void ThreadPool::wait_for(std::atomic<uint32_t> &word, uint32_t value) {
    const auto reached = [&] { return word.load(std::memory_order_acquire) - value <= 1; };
    if (reached() || spin(kSpin, reached)) return;
    const Clock::time_point start = Clock::now();
    sleepers_.fetch_add(1);
    for (uint32_t now; (now = word.load()) - value > 1;) sleep_while(word, now);
    sleepers_.fetch_sub(1);
    const auto waited = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start + kSpin);
    stalled_us_.fetch_add(static_cast<uint64_t>(waited.count()));
}

} // namespace ml
