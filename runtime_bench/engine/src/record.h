// Packed records: views over untrusted bytes, checked in full when they are made (docs/format.md).
#pragma once

#include <cstddef>
#include <cstdint>

#include "mobileloop.h"

namespace ml {

constexpr uint32_t kTileRows = 8;
constexpr uint32_t kGroup = 32;

enum class Scheme : uint32_t { vector = 0, float32 = 1, int4_symmetric = 2, int4 = 3, int8 = 4 };

// Bytes of one tile of 8 rows by 32 inputs, scales and minimums included.
constexpr size_t tile_bytes(Scheme scheme) {
    switch (scheme) {
    case Scheme::float32: return 1024;
    case Scheme::int4_symmetric: return 128 + 16;
    case Scheme::int4: return 128 + 16 + 16;
    case Scheme::int8: return 256 + 16;
    default: return 0;
    }
}

struct Matrix {
    Scheme scheme{};
    uint32_t rows = 0, cols = 0;
    uint32_t row_groups = 0, groups = 0; // rows / 8 and cols / 32, rounded up
    const uint8_t *tiles = nullptr;
    bool integer() const { return scheme != Scheme::float32; }
};

struct Block {
    uint32_t hidden = 0, intermediate = 0, heads = 0, kv_heads = 0, head_dim = 0;
    bool interleaved = false;
    float eps = 0, theta = 0;
    const float *input_norm = nullptr, *post_attention_norm = nullptr;
    Matrix query, key, value, output, gate, up, down;
};

Block parse_block(ml_record record);
Matrix parse_matrix(ml_record record);

} // namespace ml
