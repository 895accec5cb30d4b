#include "records.h"

#include <algorithm>
#include <cstring>
#include <sys/mman.h>
#include <utility>

#include "error.h"

namespace ml::onnx {
namespace {

constexpr uint32_t kVersion = 1; // groups of 32
constexpr size_t kHeaderBytes = sizeof(RecordHeader), kEntryBytes = sizeof(RecordEntry), kTensorAlignment = 64,
                 kPage = 16384, kHugePage = 1 << 21;
constexpr size_t kCodeBytes4 = 16, kCodeBytes8 = 32; // of a group of 32

size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

size_t group_bytes(Scheme scheme) { return scheme == Scheme::int8 ? kCodeBytes8 : kCodeBytes4; }

template <typename T> void put(uint8_t *to, T value) { std::memcpy(to, &value, sizeof value); }

// One row's 32 inputs into row r of a tile of zeros; the tile's layout is section 4 of docs/format.md.
void pack_codes(Scheme scheme, const uint8_t *codes, uint32_t r, uint8_t *tile) {
    if (scheme == Scheme::int8) {
        for (uint32_t k = 0; k < kGroup; k++) tile[32 * (k / 4) + 4 * r + k % 4] = codes[k] ^ 0x80;
        return;
    }
    const auto code = [&](uint32_t k) { return codes[k / 2] >> (k % 2 * 4) & 15; };
    for (uint32_t k = 0; k < kGroup / 2; k++)
        tile[32 * (k / 4) + 4 * r + k % 4] = static_cast<uint8_t>(code(k) | code(k + 16) << 4);
}

void pack_integers(const Stored &m, uint8_t *tiles) {
    const size_t groups = m.cols / kGroup, bytes = tile_bytes(m.scheme), width = group_bytes(m.scheme);
    const size_t scales = kTileRows * width, minimums = scales + 2 * kTileRows;
    for (size_t row = 0; row < m.rows; row++) {
        const uint32_t r = row % kTileRows;
        for (size_t g = 0; g < groups; g++) {
            uint8_t *tile = tiles + (row / kTileRows * groups + g) * bytes;
            const size_t group = row * groups + g;
            pack_codes(m.scheme, m.codes + group * width, r, tile);
            put(tile + scales + 2 * r, m.scale[group]);
            if (m.minimum) put(tile + minimums + 2 * r, m.minimum[group]);
        }
    }
}

void pack_floats(const Stored &m, uint8_t *tiles) {
    const size_t groups = (m.cols + kGroup - 1) / kGroup, bytes = tile_bytes(m.scheme);
    for (size_t row = 0; row < m.rows; row++) {
        for (size_t i = 0; i < m.cols; i++) {
            uint8_t *tile = tiles + (row / kTileRows * groups + i / kGroup) * bytes;
            std::memcpy(tile + sizeof(float) * (8 * (i % kGroup) + row % kTileRows),
                        m.codes + sizeof(float) * (row * m.cols + i), sizeof(float));
        }
    }
}

// Zeros in pages of their own. What lies on whole huge pages gets them, where the system has them: a decode took 33%
// longer from small pages (docs/lab-log.md).
uint8_t *map_aligned(size_t size) {
    const size_t reserved = size + kHugePage;
    void *mapped = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(mapped != MAP_FAILED, "a record of ", size, " bytes cannot be allocated");
    auto *begin = static_cast<uint8_t *>(mapped);
    const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
    if (before) munmap(begin, before);
    const size_t after = reserved - before - size;
    if (after) munmap(begin + before + size, after);
#if defined(MADV_HUGEPAGE)
    madvise(begin + before, size, MADV_HUGEPAGE);
#endif
    return begin + before;
}

} // namespace

// One entry of the table: a matrix, or a norm of `shape.hidden` floats.
struct Record::Part {
    uint32_t role;
    const Stored *matrix;
    const float *norm;

    size_t size(const BlockShape &shape) const {
        if (norm) return sizeof(float) * shape.hidden;
        const size_t row_groups = (size_t{matrix->rows} + kTileRows - 1) / kTileRows;
        return row_groups * ((size_t{matrix->cols} + kGroup - 1) / kGroup) * tile_bytes(matrix->scheme);
    }
};

Stored Stored::part(uint32_t first, uint32_t count) const {
    Stored taken = *this;
    taken.rows = count;
    if (scheme == Scheme::float32) {
        taken.codes += sizeof(float) * first * cols;
        return taken;
    }
    const size_t skipped = size_t{first} * (cols / kGroup);
    taken.codes += skipped * group_bytes(scheme);
    taken.scale += skipped;
    if (minimum) taken.minimum += skipped;
    return taken;
}

Record::Record(uint32_t kind, const BlockShape &shape, const std::vector<Part> &parts) {
    size_t total = round_up(kHeaderBytes + kEntryBytes * parts.size(), kTensorAlignment);
    for (const Part &part : parts) total = round_up(total + part.size(shape), kTensorAlignment);
    size_ = round_up(total, kPage);
    bytes_ = map_aligned(size_);
    const uint32_t header[] = {kRecordMagic, kVersion, kind, static_cast<uint32_t>(parts.size())};
    const uint32_t dims[] = {shape.hidden, shape.intermediate, shape.heads, shape.kv_heads, shape.head_dim, 0};
    std::memcpy(bytes_, header, sizeof header);
    put(bytes_ + 16, static_cast<uint64_t>(size_));
    std::memcpy(bytes_ + 24, dims, sizeof dims);
    put(bytes_ + 48, shape.eps);
    put(bytes_ + 52, shape.theta);
    put(bytes_ + 56, uint32_t{shape.interleaved});
    size_t offset = round_up(kHeaderBytes + kEntryBytes * parts.size(), kTensorAlignment);
    uint8_t *entry = bytes_ + kHeaderBytes;
    for (const Part &part : parts) {
        const Stored vector{Scheme::vector, 1, shape.hidden, nullptr, nullptr, nullptr};
        const Stored &held = part.norm ? vector : *part.matrix;
        const uint32_t what[] = {part.role, static_cast<uint32_t>(held.scheme), held.rows, held.cols};
        const uint64_t where[] = {offset, part.size(shape)};
        std::memcpy(entry, what, sizeof what);
        std::memcpy(entry + sizeof what, where, sizeof where);
        if (part.norm) {
            std::memcpy(bytes_ + offset, part.norm, where[1]);
        } else if (held.scheme == Scheme::float32) {
            pack_floats(held, bytes_ + offset);
        } else {
            pack_integers(held, bytes_ + offset);
        }
        entry += kEntryBytes;
        offset = round_up(offset + where[1], kTensorAlignment);
    }
    mprotect(bytes_, size_, PROT_READ);
}

Record Record::block(const BlockShape &shape, const BlockTensors &t) {
    return {kBlockRecord,
            shape,
            {{0, nullptr, t.input_norm},
             {1, &t.query, nullptr},
             {2, &t.key, nullptr},
             {3, &t.value, nullptr},
             {4, &t.output, nullptr},
             {5, nullptr, t.post_attention_norm},
             {6, &t.gate, nullptr},
             {7, &t.up, nullptr},
             {8, &t.down, nullptr}}};
}

Record Record::matrix(const Stored &stored) {
    BlockShape shape;
    shape.hidden = stored.cols;
    return {kMatrixRecord, shape, {{kMatrixRole, &stored, nullptr}}};
}

Record::~Record() {
    if (bytes_) munmap(bytes_, size_);
}

Record::Record(Record &&other) noexcept : bytes_(std::exchange(other.bytes_, nullptr)), size_(other.size_) {}

} // namespace ml::onnx
