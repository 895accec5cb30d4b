// What a node of ONNX Runtime is given: its inputs, attributes and weights. An .onnx file is untrusted, and its graph
// decides all of them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <string>
#include <vector>

#include <onnxruntime_c_api.h>

#include "mobileloop.h"
#include "records.h"

namespace ml::onnx {

// Set by every registration, to the same value, while kernels of other sessions read it.
struct Api {
    std::atomic<const OrtApi *> held{nullptr};
    const OrtApi *operator->() const { return held.load(std::memory_order_relaxed); }
};
extern Api ort;

// Each throws where what it is given failed.
void ran(OrtStatus *status);
void ran(ml_status status);

// ONNX Runtime knows no exceptions of ours: what is thrown becomes a status.
template <typename Body> OrtStatus *guarded(const Body &body) noexcept {
    try {
        body();
        return nullptr;
    } catch (const std::exception &error) {
        return ort->CreateStatus(ORT_FAIL, (std::string("mobileloop: ") + error.what()).c_str());
    }
}

struct Tensor {
    ONNXTensorElementDataType type{};
    std::vector<int64_t> shape;
    void *data = nullptr;

    size_t count() const { // ONNX Runtime holds that many elements, so it does not overflow
        size_t all = 1;
        for (const int64_t extent : shape) all *= static_cast<size_t>(extent);
        return all;
    }
    template <typename T> T *as() const { return static_cast<T *>(data); }
    bool is(std::initializer_list<int64_t> expected) const { return shape == std::vector<int64_t>(expected); }
};

size_t element_bytes(ONNXTensorElementDataType type);
Tensor input(const OrtKernelContext *context, size_t index, const char *what);
int64_t whole_number(const OrtKernelContext *context, size_t index, const char *what);
// [rows, hidden]; at least one row
Tensor hidden_states(const OrtKernelContext *context, uint32_t hidden);
float *output(OrtKernelContext *context, size_t index, const std::vector<int64_t> &shape);
int64_t attribute(const OrtKernelInfo *info, const char *name, int64_t low, int64_t high);
uint32_t size_attribute(const OrtKernelInfo *info, const char *name, int64_t high);
float number_attribute(const OrtKernelInfo *info, const char *name);
bool interleaved_attribute(const OrtKernelInfo *info);

// The weights of a node, taken one after the other: its constant inputs from `first` on.
class Constants {
public:
    Constants(const OrtKernelInfo *info, size_t first);

    static bool constant(const OrtKernelInfo *info, size_t index, const OrtValue **value);

    Tensor next();
    const float *norm(uint32_t hidden);
    // A matrix of `cols` columns: what its parts are follows from their types (docs/onnx.md).
    Stored matrix(uint32_t cols);
    // Matrices that read the same input, of rows[i] rows each: stored as one, or one by one.
    std::vector<Stored> matrices(const std::vector<uint32_t> &rows, uint32_t cols);
    void expect_end() const;

private:
    const uint16_t *halves(uint32_t rows, int64_t groups);
    bool next_is_halves();

    const OrtKernelInfo *info_;
    size_t index_, count_ = 0;
};

} // namespace ml::onnx
