// Where the keys and values of a session's sequences lie.
#pragma once

#include <cstdint>

#include "format/model.h"

namespace ml {

// The KV caches of a session's sequences: anonymous memory that costs nothing until it is written, so that a short
// sequence pays only for its own tokens.
class KvMemory {
public:
    KvMemory(const Model &model, uint32_t num_sequences);
    ~KvMemory();
    KvMemory(const KvMemory &) = delete;
    KvMemory &operator=(const KvMemory &) = delete;

    uint64_t slot_bytes() const { return slot_bytes_; }
    const uint8_t *data() const { return data_; }
    uint64_t size() const { return total_bytes_; }
    // Copies the first `tokens` tokens of a slot's keys and values.
    void copy(uint32_t from, uint32_t from_slot, uint32_t to, uint32_t to_slot, uint32_t tokens) const;
    uint8_t *keys(uint32_t sequence, uint32_t slot) const {
        return data_ + 2 * cache_bytes_ * sequence + slot_bytes_ * slot;
    }
    uint8_t *values(uint32_t sequence, uint32_t slot) const { return keys(sequence, slot) + cache_bytes_; }

private:
    const uint32_t kv_heads_, context_;
    uint64_t slot_bytes_ = 0, cache_bytes_ = 0, total_bytes_ = 0; // of one slot, of one cache, of all caches
    uint8_t *data_ = nullptr;
};

} // namespace ml
