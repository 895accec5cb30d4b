#include "node.h"

#include <cstring>
#include <memory>
#include <stdexcept>

#include "bounds.h"
#include "error.h"

namespace ml::onnx {

Api ort;

void ran(OrtStatus *status) {
    if (!status) return;
    const std::string why = ort->GetErrorMessage(status);
    ort->ReleaseStatus(status);
    throw std::runtime_error(why);
}

void ran(ml_status status) {
    if (status != ML_OK) throw std::runtime_error(ml_last_error());
}

size_t element_bytes(ONNXTensorElementDataType type) {
    switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return 4;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: return 2;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: return 8;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return 1;
    default: throw Error("an input has a type that no operator of mobileloop takes");
    }
}

static Tensor tensor_of(const OrtValue *value, const char *what) {
    int held = 0;
    if (value) ran(ort->IsTensor(value, &held));
    require(held != 0, what, " is missing or no tensor");
    OrtTensorTypeAndShapeInfo *info = nullptr;
    ran(ort->GetTensorTypeAndShape(value, &info));
    const std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo *)> owned(
        info, [](OrtTensorTypeAndShapeInfo *held_info) { ort->ReleaseTensorTypeAndShapeInfo(held_info); });
    Tensor tensor;
    size_t rank = 0;
    ran(ort->GetTensorElementType(info, &tensor.type));
    ran(ort->GetDimensionsCount(info, &rank));
    tensor.shape.resize(rank);
    ran(ort->GetDimensions(info, tensor.shape.data(), rank));
    ran(ort->GetTensorMutableData(const_cast<OrtValue *>(value), &tensor.data));
    const auto address = reinterpret_cast<uintptr_t>(tensor.data);
    require(tensor.count() == 0 || (address != 0 && address % element_bytes(tensor.type) == 0), what,
            " has no data, or its data is not aligned");
    return tensor;
}

Tensor input(const OrtKernelContext *context, size_t index, const char *what) {
    const OrtValue *value = nullptr;
    ran(ort->KernelContext_GetInput(context, index, &value));
    return tensor_of(value, what);
}

int64_t whole_number(const OrtKernelContext *context, size_t index, const char *what) {
    const Tensor tensor = input(context, index, what);
    require(tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 && tensor.count() == 1, what, " is not one int64");
    return *tensor.as<int64_t>();
}

Tensor hidden_states(const OrtKernelContext *context, uint32_t hidden) {
    Tensor tensor = input(context, 0, "the input of hidden states");
    require(tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT && tensor.shape.size() == 2 && tensor.shape[0] >= 1 &&
                tensor.shape[0] <= kMaxExtent && tensor.shape[1] == hidden,
            "hidden states are not float32 of shape [tokens, ", hidden, "]");
    return tensor;
}

float *output(OrtKernelContext *context, size_t index, const std::vector<int64_t> &shape) {
    OrtValue *value = nullptr;
    ran(ort->KernelContext_GetOutput(context, index, shape.data(), shape.size(), &value));
    return tensor_of(value, "an output").as<float>();
}

// What reading an attribute gave.
static void named(const char *name, OrtStatus *status) {
    if (status) ort->ReleaseStatus(status);
    require(!status, "the attribute ", name, " is missing or of another type");
}

int64_t attribute(const OrtKernelInfo *info, const char *name, int64_t low, int64_t high) {
    int64_t value = 0;
    named(name, ort->KernelInfoGetAttribute_int64(info, name, &value));
    require(value >= low && value <= high, "the attribute ", name, " is ", value, ", outside ", low, " to ", high);
    return value;
}

uint32_t size_attribute(const OrtKernelInfo *info, const char *name, int64_t high) {
    return static_cast<uint32_t>(attribute(info, name, 1, high));
}

float number_attribute(const OrtKernelInfo *info, const char *name) {
    float value = 0;
    named(name, ort->KernelInfoGetAttribute_float(info, name, &value));
    return value;
}

bool interleaved_attribute(const OrtKernelInfo *info) {
    char text[16] = {};
    size_t size = sizeof text;
    named("rope_pairing", ort->KernelInfoGetAttribute_string(info, "rope_pairing", text, &size));
    const std::string pairing(text, strnlen(text, sizeof text));
    require(pairing == "half" || pairing == "interleaved",
            "the attribute rope_pairing is neither half nor interleaved");
    return pairing == "interleaved";
}

Constants::Constants(const OrtKernelInfo *info, size_t first) : info_(info), index_(first) {
    ran(ort->KernelInfo_GetInputCount(info, &count_));
}

bool Constants::constant(const OrtKernelInfo *info, size_t index, const OrtValue **value) {
    int is_constant = 0;
    ran(ort->KernelInfoGetConstantInput_tensor(info, index, &is_constant, value));
    return is_constant != 0 && *value != nullptr;
}

Tensor Constants::next() {
    const OrtValue *value = nullptr;
    require(index_ < count_, "a node has ", count_, " inputs, too few for its weights");
    require(constant(info_, index_, &value), "the weights in input ", index_,
            " are no constant of the file; export it again");
    Tensor tensor = tensor_of(value, "a weight");
    index_++;
    return tensor;
}

const float *Constants::norm(uint32_t hidden) {
    const Tensor tensor = next();
    require(tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT && tensor.is({hidden}), "input ", index_ - 1,
            " is no norm of ", hidden, " float32");
    return tensor.as<float>();
}

Stored Constants::matrix(uint32_t cols) {
    const size_t first = index_;
    const Tensor codes = next();
    Stored stored;
    stored.cols = cols;
    stored.codes = codes.as<uint8_t>();
    require(!codes.shape.empty() && codes.shape[0] >= 1 && codes.shape[0] <= kMaxExtent, "the matrix in input ", first,
            " has no rows, or too many");
    stored.rows = static_cast<uint32_t>(codes.shape[0]);
    if (codes.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
        require(codes.is({stored.rows, cols}), "the matrix in input ", first, " does not have ", cols, " columns");
        stored.scheme = Scheme::float32;
        return stored;
    }
    const int64_t groups = cols / kGroup;
    const bool wide = codes.is({stored.rows, groups, 32});
    require(codes.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 && cols % kGroup == 0 &&
                (wide || codes.is({stored.rows, groups, 16})),
            "the codes in input ", first, " are not bytes of shape [rows, ", groups, ", 16 or 32]");
    stored.scale = halves(stored.rows, groups);
    stored.scheme = wide ? Scheme::int8 : Scheme::int4_symmetric;
    if (!wide && next_is_halves()) {
        stored.minimum = halves(stored.rows, groups);
        stored.scheme = Scheme::int4;
    }
    return stored;
}

std::vector<Stored> Constants::matrices(const std::vector<uint32_t> &rows, uint32_t cols) {
    uint64_t all = 0;
    for (const uint32_t count : rows) all += count;
    std::vector<Stored> parts{matrix(cols)};
    if (parts[0].rows == all) {
        const Stored joined = parts[0];
        parts.clear();
        uint32_t first = 0;
        for (const uint32_t count : rows) {
            parts.push_back(joined.part(first, count));
            first += count;
        }
    }
    while (parts.size() < rows.size()) parts.push_back(matrix(cols));
    for (size_t i = 0; i < rows.size(); i++)
        require(parts[i].rows == rows[i], "a matrix before input ", index_, " has ", parts[i].rows, " rows where ",
                rows[i], " were expected");
    return parts;
}

void Constants::expect_end() const {
    require(index_ == count_, "a node has ", count_, " inputs where ", index_, " were expected");
}

const uint16_t *Constants::halves(uint32_t rows, int64_t groups) {
    const Tensor tensor = next();
    require(tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 && tensor.is({rows, groups}), "input ", index_ - 1,
            " is not float16 of shape [", rows, ", ", groups, "]");
    return tensor.as<uint16_t>();
}

bool Constants::next_is_halves() {
    const OrtValue *value = nullptr;
    return index_ < count_ && constant(info_, index_, &value) &&
           tensor_of(value, "a weight").type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
}

} // namespace ml::onnx
