// The engine's records (docs/format.md) made from the matrices of an .onnx file (docs/onnx.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "format/record.h"
#include "mobileloop.h"

namespace ml::onnx {

// A matrix as the file stores it, row by row: float32 [rows, cols], or bytes [rows, cols / 32, 32 * bits / 8] with the
// lower nibble first and int8 moved by 128; scale and minimum are float16 [rows, cols / 32].
struct Stored {
    Scheme scheme{};
    uint32_t rows = 0, cols = 0;
    const uint8_t *codes = nullptr;
    const uint16_t *scale = nullptr;
    const uint16_t *minimum = nullptr; // int4 only

    Stored part(uint32_t first, uint32_t count) const; // rows first .. first + count - 1
};

struct BlockShape {
    uint32_t hidden = 0, intermediate = 0, heads = 0, kv_heads = 0, head_dim = 0;
    bool interleaved = false;
    float eps = 0, theta = 0;
};

struct BlockTensors {
    const float *input_norm = nullptr, *post_attention_norm = nullptr; // [hidden]
    Stored query, key, value, output, gate, up, down;
};

// A record in anonymous memory of its own, read-only once it is packed.
class Record {
public:
    static Record block(const BlockShape &shape, const BlockTensors &tensors);
    static Record matrix(const Stored &stored);
    ~Record();
    Record(Record &&other) noexcept;
    Record(const Record &) = delete;
    Record &operator=(const Record &) = delete;

    ml_record view() const { return {bytes_, size_}; }

private:
    struct Part;
    Record(uint32_t kind, const BlockShape &shape, const std::vector<Part> &parts);

    uint8_t *bytes_ = nullptr;
    size_t size_ = 0;
};

} // namespace ml::onnx
