// One sequence over a model: its KV cache, position and loop count.
#pragma once

#include <memory>
#include <vector>

#include "context.h"
#include "model.h"

struct ml_session {
    ml_session(std::shared_ptr<const ml::Model> model, uint32_t threads, uint32_t loops);
    ~ml_session();
    ml_session(const ml_session &) = delete;
    ml_session &operator=(const ml_session &) = delete;

    void run(const int64_t *tokens, uint32_t count, bool all_logits, float *logits, uint64_t logits_floats);
    void reset(uint32_t loops);
    std::atomic<bool> &busy() { return context_.busy; }

    uint32_t position = 0;

private:
    void run_chunk(const int64_t *tokens, uint32_t count, float *logits, bool all_logits, bool last);
    void set_loops(uint32_t loops);
    uint64_t slot_bytes() const;

    std::shared_ptr<const ml::Model> model_;
    ml_context context_;
    uint32_t loops_ = 0; // 0: each stage's own
    uint64_t cache_bytes_ = 0;
    uint8_t *keys_ = nullptr, *values_ = nullptr;
    ml::Scratch<float> hidden_;
};
