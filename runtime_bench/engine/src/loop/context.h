// Threads and scratch memory of one caller, and the operators that run on them.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "format/record.h"
#include "kernels/kernels.h"
#include "mobileloop.h"
#include "threads/placement.h"
#include "threads/threads.h"

namespace ml {

// Scratch that grows and is reused; contents are lost when it grows.
template <typename T> class Scratch {
public:
    T *at_least(size_t count) {
        if (count > size_) {
            size_ = 0;        // nothing is held if the allocation fails
            storage_.reset(); // free before the larger allocation
            storage_.reset(static_cast<T *>(::operator new[](count * sizeof(T), std::align_val_t{64})));
            size_ = count;
        }
        return storage_.get();
    }

private:
    struct Free {
        void operator()(T *p) const { ::operator delete[](p, std::align_val_t{64}); }
    };
    std::unique_ptr<T, Free> storage_;
    size_t size_ = 0;
};

// Activations that a projection reads: floats, and their 8-bit form where a matrix is quantized.
struct ActivationScratch {
    Scratch<float> floats, scales, offsets;
    Scratch<int32_t> eights;
    Scratch<int8_t> high, low;
    Activations rows(size_t tokens, size_t size);
};

inline void zero_padding(const Activations &a, size_t row, size_t size) {
    std::fill(a.floats + row * a.stride + size, a.floats + (row + 1) * a.stride, 0.0f);
}

// Thread 0's clock at the loop ends of one call of the loop operator, which is the thread that calls; the head is one
// loop of its own.
class LoopClock {
public:
    // Adds to ns[loop]; null: off, and no clock is read.
    explicit LoopClock(uint64_t *ns) : ns_(ns), last_(ns ? Clock::now() : Clock::time_point{}) {}
    void loop_ended(uint32_t loop) {
        loop_ = loop;
        count();
    }
    // What follows the last loop belongs to it.
    void call_ended() { count(); }

private:
    using Clock = std::chrono::steady_clock;
    void count() {
        if (!ns_) return;
        const Clock::time_point now = Clock::now();
        ns_[loop_] += static_cast<uint64_t>(std::chrono::nanoseconds(now - last_).count());
        last_ = now;
    }
    uint64_t *ns_;
    uint32_t loop_ = 0;
    Clock::time_point last_;
};

} // namespace ml

struct ml_context {
    // Throws where the threads are outside 1 to kMaxThreads.
    explicit ml_context(uint32_t threads);

    void embed(const ml::Matrix &embedding, const int64_t *tokens, uint32_t count, float *out);
    // loop_ns: [loops] that the time of each is added to; null where nobody asks.
    void loop(const ml_loop_args &args, uint64_t *loop_ns = nullptr);
    void head(const ml::Matrix &head, const float *norm, float eps, const float *hidden, uint32_t rows, float *logits);

    // How the blocks that are read next are brought towards the cache (ml_context_stream).
    void stream(uint32_t mode, uint32_t stream_threads);
    uint32_t stream_mode() const { return stream_mode_; }
    uint32_t stream_threads() const { return stream_mode_ == ML_STREAM_CORE ? stream_threads_ : 0; }

    ml::ThreadPool pool;
    ml::Placement placement;
    const ml::Kernels &kernels;
    std::atomic<bool> busy{false};

private:
    struct Stage;
    struct Rows;
    class Application;
    class Region;
    void reserve(const ml_loop_args &args, const ml::Block &block);
    void check(const ml_loop_args &args);
    void rotary_table(const ml_loop_args &args, const ml::Block &block);

    uint32_t stream_mode_ = ML_STREAM_OFF, stream_threads_ = 1;
    std::vector<ml::Matrix> next_;     // what is read after the call at hand, where it is streamed
    std::atomic<bool> applied_{false}; // the computing threads are through
    std::atomic<uint64_t> read_ahead_{0};

    std::vector<ml::Block> blocks_;                                   // of the call at hand
    std::vector<std::pair<const uint8_t *, const uint8_t *>> caches_; // their begins and ends

    // One row is normalised and quantized by every thread for itself, which is cheaper than a barrier; more rows are
    // split and shared. private_[0] doubles as the shared one.
    std::vector<ml::ActivationScratch> private_;
    std::vector<ml::Stream> streams_; // one per thread
    ml::Scratch<float> query_, key_, value_, attended_, gate_, up_, entered_, hidden_;
    // Where rows may halt: which rows go on (two lists, read and written in turn), which of them are done, and survival
    // as in halting.h by row of the call.
    ml::Scratch<uint32_t> going_[2];
    ml::Scratch<uint8_t> done_;
    ml::Scratch<double> survival_;
    ml::Scratch<float> rotary_; // [sequences, tokens, head_dim]: cosines, then sines
    float rotary_theta_ = 0;
    uint32_t rotary_dim_ = 0, rotary_tokens_ = 0;
    std::vector<uint32_t> rotary_positions_; // of the first token of every sequence
};
