// One application of one block, as one thread runs its part of it.
#pragma once

#include "loop/context.h"

// What all applications of one call share.
struct ml_context::Stage {
    const ml_loop_args &args;
    float *hidden;                 // [rows, hidden]: the state; rows that halt leave it
    float *entered;                // the state before the loop at hand, where it is needed
    size_t rows;                   // tokens of all sequences
    bool wide;                     // more than one row
    bool halting;                  // rows may halt
    uint32_t threads;              // of the pool
    size_t kv_heads, kv_row_bytes; // a KV row is one token's part of one KV head
    bool prefetching;              // computing threads stream what is next
    ml::LoopClock &clock;          // thread 0's

    // One KV head's part, [capacity, head_dim], of a slot in a cache.
    uint8_t *part_of(void *cache, size_t slot, size_t kv_head) const {
        return static_cast<uint8_t *>(cache) + (slot * kv_heads + kv_head) * args.capacity * kv_row_bytes;
    }
    const ml_sequence &sequence_of(size_t row) const { return args.sequences[row / args.tokens]; }
    uint32_t position_of(size_t row) const {
        return sequence_of(row).position + static_cast<uint32_t>(row % args.tokens);
    }
};

// The rows that still loop. They lie together: row i of the state is row of_call(i) of the call.
struct ml_context::Rows {
    size_t count;
    const uint32_t *list; // null: every row of the call
    size_t of_call(size_t i) const { return list ? list[i] : i; }
};

// One thread's part in one application of one block.
class ml_context::Application {
public:
    Application(ml_context &context, const Stage &stage, const Rows &rows, const ml::Block &block, uint32_t slot,
                uint32_t thread)
        : context_(context), kernels_(context.kernels), stage_(stage), rows_(rows), args_(stage.args), block_(block),
          slot_(slot), thread_(thread), head_dim_(block.head_dim), query_size_(size_t{block.heads} * head_dim_) {}

    // Ends with all threads past the last write to the hidden states.
    void run();

private:
    ml::Range own(size_t total) const { return ml::share(total, thread_, stage_.threads); }

    // The input rows of a projection; fill(t, to) writes one of them.
    template <typename Fill> ml::Activations prepare(size_t size, bool integer, const Fill &fill);
    ml::Activations normed(const float *scale, bool integer);
    ml::Activations copied(const float *from, size_t size, bool integer);
    void project(const ml::Matrix &matrix, const ml::Activations &a, float *y, bool accumulate) const;
    // Rotate queries, rotate keys into the slot, store values in the slot.
    void rotate_and_store(float *query, float *key, const float *value);
    void attend(const float *query, float *attended) const;
    // `count` query heads of row i of the state, all of one KV head.
    void attend_heads(const float *query, float *attended, size_t i, size_t head, size_t count) const;
    void feed_forward();

    ml_context &context_;
    const ml::Kernels &kernels_;
    const Stage &stage_;
    const Rows &rows_;
    const ml_loop_args &args_;
    const ml::Block &block_;
    const uint32_t slot_, thread_;
    const size_t head_dim_, query_size_;
};
