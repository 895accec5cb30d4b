// Packed records: views over untrusted bytes, checked in full when they are made (docs/format.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "mobileloop.h"

namespace ml {

constexpr uint32_t kTileRows = 8;
constexpr uint32_t kGroup = 32; // inputs that share a scale of the activations; a weight's group is a multiple of it

enum class Scheme : uint32_t { vector = 0, float32 = 1, int4_symmetric = 2, int4 = 3, int8 = 4 };

// Bytes of the codes of 8 rows by 32 inputs.
constexpr size_t code_bytes(Scheme scheme) {
    return scheme == Scheme::float32 ? 1024 : scheme == Scheme::int8 ? 256 : scheme == Scheme::vector ? 0 : 128;
}

// Bytes of one tile of 8 rows by one group of inputs: codes, then scales, then minimums.
constexpr size_t tile_bytes(Scheme scheme, uint32_t group = kGroup) {
    const size_t scales = scheme == Scheme::int4                                       ? 32
                          : scheme == Scheme::int8 || scheme == Scheme::int4_symmetric ? 16
                                                                                       : 0;
    return code_bytes(scheme) * (group / kGroup) + scales;
}

constexpr uint32_t kRecordMagic = 0x4B4C424D; // "MBLK"
constexpr uint32_t kRecordVersion = 2;        // 1 knows groups of 32 only
constexpr uint32_t kBlockRecord = 1, kMatrixRecord = 2;
constexpr uint32_t kMatrixRole = 16; // of the tensor in a matrix record; those of a block have their place as role

struct RecordHeader {
    uint32_t magic, version, kind, num_tensors;
    uint64_t total_bytes;
    uint32_t hidden, intermediate, heads, kv_heads, head_dim, reserved0;
    float eps, theta;
    uint32_t flags, reserved1;
};
static_assert(sizeof(RecordHeader) == 64, "the record header is 64 bytes");

struct RecordEntry {
    uint32_t role;
    uint16_t scheme, group; // group 0 is 32
    uint32_t rows, cols;
    uint64_t offset, size_bytes;
};
static_assert(sizeof(RecordEntry) == 32, "a tensor entry is 32 bytes");

struct Matrix {
    Scheme scheme{};
    uint32_t rows = 0, cols = 0;
    uint32_t group = kGroup;             // inputs that share a scale: 32, 64 or 128
    uint32_t row_groups = 0, groups = 0; // rows / 8 and cols / group, rounded up
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
// The matrices of a block or of a matrix record, in reading order, behind those in `to`.
void add_matrices(ml_record record, std::vector<Matrix> &to);

// One row of a matrix as float32, [cols].
void dequantize_row(const Matrix &matrix, uint32_t row, float *out);

} // namespace ml
