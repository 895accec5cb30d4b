#include "format/record.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "bounds.h"
#include "error.h"
#include "format/half.h"

namespace ml {
namespace {

constexpr uint32_t kBlockTensors = 9;

RecordHeader read_header(ml_record record, uint32_t kind) {
    require(record.data != nullptr, "a record has no data");
    require(reinterpret_cast<uintptr_t>(record.data) % 4 == 0, "a record is not aligned to 4 bytes");
    require(record.size_bytes >= sizeof(RecordHeader), "a record of ", record.size_bytes,
            " bytes is shorter than its header of ", sizeof(RecordHeader));
    RecordHeader header;
    std::memcpy(&header, record.data, sizeof header);
    require(header.magic == kRecordMagic, "a record starts with ", header.magic, " where the magic number ",
            kRecordMagic, " was expected");
    require(header.version >= 1 && header.version <= kRecordVersion, "a record has version ", header.version,
            ", and this engine reads versions 1 to ", kRecordVersion);
    require(header.kind == kind, "a record has kind ", header.kind, " where ", kind, " was expected");
    require(header.total_bytes <= record.size_bytes, "a record claims ", header.total_bytes, " bytes but holds ",
            record.size_bytes);
    const uint64_t table = sizeof(RecordHeader) + uint64_t{header.num_tensors} * sizeof(RecordEntry);
    require(header.num_tensors <= 64 && table <= header.total_bytes, "a record's table of ", header.num_tensors,
            " tensors does not fit its ", header.total_bytes, " bytes");
    return header;
}

RecordEntry read_entry(ml_record record, const RecordHeader &header, uint32_t index, uint32_t role) {
    RecordEntry entry;
    std::memcpy(&entry, static_cast<const uint8_t *>(record.data) + sizeof(RecordHeader) + index * sizeof(RecordEntry),
                sizeof entry);
    require(entry.role == role, "tensor ", index, " of a record has role ", entry.role, " where ", role,
            " was expected");
    require(entry.offset % 4 == 0 && entry.offset <= header.total_bytes &&
                entry.size_bytes <= header.total_bytes - entry.offset,
            "tensor ", index, " of a record lies at ", entry.offset, " with ", entry.size_bytes, " bytes, outside its ",
            header.total_bytes);
    return entry;
}

const float *read_norm(ml_record record, const RecordHeader &header, uint32_t index, uint32_t role) {
    const RecordEntry entry = read_entry(record, header, index, role);
    require(entry.scheme == 0 && entry.group == 0 && entry.rows == 1 && entry.cols == header.hidden &&
                entry.size_bytes == uint64_t{header.hidden} * sizeof(float),
            "the norm in tensor ", index, " of a record holds ", entry.cols, " values in ", entry.size_bytes,
            " bytes where ", header.hidden, " floats were expected");
    return reinterpret_cast<const float *>(static_cast<const uint8_t *>(record.data) + entry.offset);
}

Matrix read_matrix(ml_record record, const RecordHeader &header, uint32_t index, uint32_t role) {
    const RecordEntry entry = read_entry(record, header, index, role);
    require(entry.scheme >= 1 && entry.scheme <= 4, "tensor ", index, " of a record has the unknown scheme ",
            entry.scheme);
    const bool quantized = entry.scheme != static_cast<uint32_t>(Scheme::float32);
    const bool wide = quantized && header.version >= 2 && (entry.group == 64 || entry.group == 128);
    require(entry.group == 0 || wide, "tensor ", index, " of a record has groups of ", entry.group, ", which scheme ",
            entry.scheme, " of record version ", header.version, " does not have");
    require(entry.rows >= 1 && entry.rows <= kMaxExtent && entry.cols >= 1 && entry.cols <= kMaxExtent, "tensor ",
            index, " of a record is ", entry.rows, " by ", entry.cols, ", outside 1 to ", kMaxExtent);
    Matrix matrix;
    matrix.scheme = static_cast<Scheme>(entry.scheme);
    matrix.rows = entry.rows;
    matrix.cols = entry.cols;
    matrix.row_groups = (entry.rows + kTileRows - 1) / kTileRows;
    matrix.group = wide ? entry.group : kGroup;
    matrix.groups = (entry.cols + matrix.group - 1) / matrix.group;
    require(!matrix.integer() || entry.cols % matrix.group == 0, "tensor ", index, " of a record has ", entry.cols,
            " inputs, not a multiple of the group of ", matrix.group);
    const uint64_t expected = uint64_t{matrix.row_groups} * matrix.groups * tile_bytes(matrix.scheme, matrix.group);
    require(entry.size_bytes == expected, "tensor ", index, " of a record holds ", entry.size_bytes, " bytes where ",
            expected, " were expected");
    matrix.tiles = static_cast<const uint8_t *>(record.data) + entry.offset;
    return matrix;
}

void expect_shape(const Matrix &matrix, uint64_t rows, uint64_t cols, const char *name) {
    require(matrix.rows == rows && matrix.cols == cols, "the ", name, " projection is ", matrix.rows, " by ",
            matrix.cols, " where ", rows, " by ", cols, " was expected");
}

} // namespace

Block parse_block(ml_record record) {
    const RecordHeader header = read_header(record, kBlockRecord);
    require(header.num_tensors == kBlockTensors, "a block has ", header.num_tensors, " tensors where ", kBlockTensors,
            " were expected");
    Block block;
    block.hidden = header.hidden;
    block.intermediate = header.intermediate;
    block.heads = header.heads;
    block.kv_heads = header.kv_heads;
    block.head_dim = header.head_dim;
    block.interleaved = (header.flags & 1u) != 0;
    block.eps = header.eps;
    block.theta = header.theta;
    require((header.flags & ~1u) == 0, "a block sets the unknown flags ", header.flags);
    for (const uint32_t extent : {block.hidden, block.intermediate})
        require(extent >= 1 && extent <= kMaxExtent, "a block's dimension ", extent, " is outside 1 to ", kMaxExtent);
    for (const uint32_t extent : {block.heads, block.kv_heads, block.head_dim})
        require(extent >= 1 && extent <= kMaxHeads, "a block's head dimension ", extent, " is outside 1 to ",
                kMaxHeads);
    require(block.heads % block.kv_heads == 0, "a block's ", block.heads, " heads are not a multiple of its ",
            block.kv_heads, " KV heads");
    require(block.head_dim % 2 == 0, "a block's head dimension ", block.head_dim, " is odd");
    require(std::isfinite(block.eps) && block.eps > 0 && std::isfinite(block.theta) && block.theta > 0,
            "a block's norm epsilon or rotary base is not a positive number");
    block.input_norm = read_norm(record, header, 0, 0);
    block.query = read_matrix(record, header, 1, 1);
    block.key = read_matrix(record, header, 2, 2);
    block.value = read_matrix(record, header, 3, 3);
    block.output = read_matrix(record, header, 4, 4);
    block.post_attention_norm = read_norm(record, header, 5, 5);
    block.gate = read_matrix(record, header, 6, 6);
    block.up = read_matrix(record, header, 7, 7);
    block.down = read_matrix(record, header, 8, 8);
    const uint64_t query_size = uint64_t{block.heads} * block.head_dim,
                   kv_size = uint64_t{block.kv_heads} * block.head_dim;
    expect_shape(block.query, query_size, block.hidden, "query");
    expect_shape(block.key, kv_size, block.hidden, "key");
    expect_shape(block.value, kv_size, block.hidden, "value");
    expect_shape(block.output, block.hidden, query_size, "output");
    expect_shape(block.gate, block.intermediate, block.hidden, "gate");
    expect_shape(block.up, block.intermediate, block.hidden, "up");
    expect_shape(block.down, block.hidden, block.intermediate, "down");
    return block;
}

Matrix parse_matrix(ml_record record) {
    const RecordHeader header = read_header(record, kMatrixRecord);
    require(header.num_tensors == 1, "a matrix record has ", header.num_tensors, " tensors where 1 was expected");
    return read_matrix(record, header, 0, kMatrixRole);
}

void dequantize_row(const Matrix &matrix, uint32_t row, float *out) {
    const uint32_t r = row % kTileRows;
    const size_t bytes = tile_bytes(matrix.scheme, matrix.group), codes = code_bytes(matrix.scheme);
    const uint8_t *tile = matrix.tiles + size_t{row / kTileRows} * matrix.groups * bytes;
    for (uint32_t begin = 0; begin < matrix.cols; begin += matrix.group, tile += bytes) {
        const auto half = [&](size_t place) { // 0: the scale, 1: the minimum
            uint16_t bits;
            std::memcpy(&bits, tile + codes * (matrix.group / kGroup) + 2 * (place * kTileRows + r), sizeof bits);
            return half_to_float(bits);
        };
        for (uint32_t i = 0; i < std::min(matrix.group, matrix.cols - begin); i++) {
            const uint8_t *part = tile + i / kGroup * codes;
            const uint32_t k = i % kGroup;
            float &to = out[begin + i];
            if (matrix.scheme == Scheme::float32) {
                std::memcpy(&to, part + 4 * (k * 8 + r), sizeof to);
            } else if (matrix.scheme == Scheme::int8) {
                to = static_cast<float>(static_cast<int8_t>(part[k / 4 * 32 + r * 4 + k % 4])) * half(0);
            } else {
                const uint8_t byte = part[k % 16 / 4 * 32 + r * 4 + k % 4];
                const float code = static_cast<float>(k < 16 ? byte & 15 : byte >> 4);
                to = matrix.scheme == Scheme::int4 ? code * half(0) + half(1) : (code - 8.0f) * half(0);
            }
        }
    }
}

void add_matrices(ml_record record, std::vector<Matrix> &to) {
    uint32_t kind = 0;
    if (record.data && record.size_bytes >= sizeof(RecordHeader))
        std::memcpy(&kind, static_cast<const uint8_t *>(record.data) + offsetof(RecordHeader, kind), sizeof kind);
    if (kind == kMatrixRecord) {
        to.push_back(parse_matrix(record));
        return;
    }
    const Block block = parse_block(record);
    for (const Matrix *matrix :
         {&block.query, &block.key, &block.value, &block.output, &block.gate, &block.up, &block.down})
        to.push_back(*matrix);
}

} // namespace ml
