// Sizes and numbers that come from a file or a caller, before anything is done with them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "mobileloop.h"

namespace ml {

// Of sizes; throws where it overflows.
uint64_t product(std::initializer_list<uint64_t> factors);

// Throws where the numbers of a rule lie out of bounds; the gate's weights are checked where they come from.
void check_halting(const ml_halting &halting);

// Of the numbers that callers give for an ml_kv_type.
constexpr bool known_kv_type(uint32_t type) { return type == ML_KV_F32 || type == ML_KV_F16 || type == ML_KV_I8; }

// Bytes that a cached key or value of one head takes: float32, float16, or int8 codes and behind them one float16 scale
// per group of 32 dimensions (docs/format.md).
constexpr size_t kv_vector_bytes(uint32_t type, size_t head_dim) {
    return type == ML_KV_F32 ? 4 * head_dim : type == ML_KV_F16 ? 2 * head_dim : head_dim + (head_dim + 31) / 32 * 2;
}

} // namespace ml
