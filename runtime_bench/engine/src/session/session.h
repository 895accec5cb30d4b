// Sequences over one model: their KV caches and positions, and the loop count they share.
#pragma once

#include <memory>
#include <vector>

#include "format/model.h"
#include "loop/context.h"
#include "session/kv_memory.h"

struct ml_session {
    ml_session(std::shared_ptr<const ml::Model> model, uint32_t threads, uint32_t loops, uint32_t num_sequences);

    void run(const ml_run_args &args);
    void fork(uint32_t from, uint32_t to);
    void set_halting(const ml_halting *halting);
    void reset(uint32_t loops);
    void reset_sequence(uint32_t sequence);
    uint32_t position(uint32_t sequence) const { return sequence < positions_.size() ? positions_[sequence] : 0; }
    const ml::KvMemory &kv() const { return kv_; }
    ml_context &context() { return context_; }
    const ml_context &context() const { return context_; }
    void stream(uint32_t mode, uint32_t stream_threads) { context_.stream(mode, stream_threads); }
    uint32_t stream_mode() const { return context_.stream_mode(); }
    uint32_t stream_threads() const { return context_.stream_threads(); }
    void calibrate(double seconds);
    void time(uint32_t on);
    void times(uint64_t *ns, uint64_t size) const;
    void slow_down(double share);

private:
    void check(const ml_run_args &args);
    void check_sequence(uint32_t sequence) const;
    void run_chunk(const ml_run_args &args, uint32_t done, uint32_t count);
    void run_stage(const ml_run_args &args, size_t stage, uint32_t done, uint32_t count, float *hidden);
    void run_chunks(const ml_run_args &args);
    uint32_t fill_behind(size_t stage, uint32_t loops);
    void run_head(const ml_run_args &args, uint32_t done, uint32_t count, const float *hidden);
    void check_loops(uint32_t loops) const;
    void set_loops(uint32_t loops);

    std::shared_ptr<const ml::Model> model_;
    ml_context context_;
    ml::KvMemory kv_;
    uint32_t loops_ = 0;      // 0: each stage's own
    bool own_halting_ = true; // each stage's own rule, and not the one that follows
    ml_halting halting_{};
    std::vector<uint32_t> positions_; // by sequence
    std::vector<uint32_t> filled_;    // by sequence and stage: loops whose slots hold all tokens of the sequence
    std::vector<std::vector<ml_record>> records_; // by stage: its blocks
    // Of the run at hand; kept, so that a run allocates nothing once warm.
    std::vector<uint32_t> running_; // its sequences
    std::vector<bool> seen_;        // by sequence: whether it is among them
    std::vector<ml_sequence> sequences_;
    ml::Scratch<int64_t> tokens_;
    ml::Scratch<float> hidden_, last_hidden_;
    ml::Scratch<uint32_t> applied_;
    std::vector<uint64_t> times_ns_; // as ml_session_times gives them; empty: not asked for
    bool timed_ = false;             // they are those of the last run
    double slow_down_ = 0;
};
