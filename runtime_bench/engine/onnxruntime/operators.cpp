// The engine's operators for ONNX Runtime: mobileloop::loop and mobileloop::head (docs/onnx.md).
//
// The nodes are calls of functions of the file; a session that has registered this library runs these kernels for them
// instead of the functions' bodies. A kernel packs the weights, constant inputs of its node, into records when it is
// made. KV rows of the new tokens are written into the caches at `position`, where the body reads nothing, and given
// out as the body does.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include <onnxruntime_c_api.h>

#include "error.h"
#include "mobileloop.h"
#include "records.h"

namespace {

using ml::require;
using ml::Scheme;
using ml::onnx::BlockShape;
using ml::onnx::BlockTensors;
using ml::onnx::Record;
using ml::onnx::Stored;

constexpr uint32_t kApiVersion = 22; // of ONNX Runtime: the oldest that has all that is used here
constexpr const char *kThreadsKey = "mobileloop.threads";
constexpr const char *kCpusKey = "mobileloop.cpus";
constexpr int64_t kMaxSize = 1 << 24;  // of hidden states and vocabularies, as in docs/format.md
constexpr int64_t kMaxSmall = 4096;    // of heads, head dimensions and blocks
constexpr int64_t kMaxSlots = 1 << 20; // and loops
constexpr uint32_t kMaxThreads = 256;  // the engine's bounds
constexpr uint32_t kMaxCpu = 1023;
constexpr uint32_t kTokensPerCall = 128; // bounds scratch memory, as the engine's own session does

// Set by every registration, to the same value, while kernels of other sessions read it.
struct Api {
    std::atomic<const OrtApi *> held{nullptr};
    const OrtApi *operator->() const { return held.load(std::memory_order_relaxed); }
} ort;
thread_local uint64_t kernels_made = 0;

void ran(OrtStatus *status) {
    if (!status) return;
    const std::string why = ort->GetErrorMessage(status);
    ort->ReleaseStatus(status);
    throw std::runtime_error(why);
}

void ran(ml_status status) {
    if (status != ML_OK) throw std::runtime_error(ml_last_error());
}

// ONNX Runtime knows no exceptions of ours: what is thrown becomes a status.
template <typename Body> OrtStatus *guarded(const Body &body) noexcept {
    try {
        body();
        return nullptr;
    } catch (const std::exception &error) {
        return ort->CreateStatus(ORT_FAIL, (std::string("mobileloop: ") + error.what()).c_str());
    }
}

// -- threads: one pool for all kernels of sessions with the same threads on the same cpus ----------------------------

struct Threads {
    uint32_t count;
    std::vector<uint32_t> cpus; // as in ml_context_place

    bool operator<(const Threads &other) const { return std::tie(count, cpus) < std::tie(other.count, other.cpus); }
};

struct Pool {
    std::mutex mutex; // held for the length of one operator
    ml_context *context = nullptr;

    explicit Pool(const Threads &threads) {
        ran(ml_context_create(threads.count, &context));
        const ml_status placed =
            ml_context_place(context, threads.cpus.data(), static_cast<uint32_t>(threads.cpus.size()));
        if (placed != ML_OK) ml_context_destroy(context);
        ran(placed);
    }
    ~Pool() { ml_context_destroy(context); }
    Pool(const Pool &) = delete;
    Pool &operator=(const Pool &) = delete;
};

std::shared_ptr<Pool> pool_of(const Threads &threads) {
    static std::mutex mutex;
    static std::map<Threads, std::weak_ptr<Pool>> pools;
    const std::lock_guard<std::mutex> lock(mutex);
    std::shared_ptr<Pool> pool = pools[threads].lock();
    if (!pool) pools[threads] = pool = std::make_shared<Pool>(threads);
    return pool;
}

// -- arguments: an .onnx file is untrusted, and its graph decides what a node is given -------------------------------

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

size_t element_bytes(ONNXTensorElementDataType type) {
    switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return 4;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: return 2;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: return 8;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return 1;
    default: throw ml::Error("an input has a type that no operator of mobileloop takes");
    }
}

Tensor tensor_of(const OrtValue *value, const char *what) {
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

// [rows, hidden]; at least one row
Tensor hidden_states(const OrtKernelContext *context, uint32_t hidden) {
    Tensor tensor = input(context, 0, "the input of hidden states");
    require(tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT && tensor.shape.size() == 2 && tensor.shape[0] >= 1 &&
                tensor.shape[0] <= kMaxSize && tensor.shape[1] == hidden,
            "hidden states are not float32 of shape [tokens, ", hidden, "]");
    return tensor;
}

float *output(OrtKernelContext *context, size_t index, const std::vector<int64_t> &shape) {
    OrtValue *value = nullptr;
    ran(ort->KernelContext_GetOutput(context, index, shape.data(), shape.size(), &value));
    return tensor_of(value, "an output").as<float>();
}

// What reading an attribute gave.
void named(const char *name, OrtStatus *status) {
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

// The weights of a node, taken one after the other: its constant inputs from `first` on.
class Constants {
public:
    Constants(const OrtKernelInfo *info, size_t first) : info_(info), index_(first) {
        ran(ort->KernelInfo_GetInputCount(info, &count_));
    }

    static bool constant(const OrtKernelInfo *info, size_t index, const OrtValue **value) {
        int is_constant = 0;
        ran(ort->KernelInfoGetConstantInput_tensor(info, index, &is_constant, value));
        return is_constant != 0 && *value != nullptr;
    }

    Tensor next() {
        const OrtValue *value = nullptr;
        require(index_ < count_, "a node has ", count_, " inputs, too few for its weights");
        require(constant(info_, index_, &value), "the weights in input ", index_,
                " are no constant of the file; export it again");
        Tensor tensor = tensor_of(value, "a weight");
        index_++;
        return tensor;
    }

    const float *norm(uint32_t hidden) {
        const Tensor tensor = next();
        require(tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT && tensor.is({hidden}), "input ", index_ - 1,
                " is no norm of ", hidden, " float32");
        return tensor.as<float>();
    }

    // A matrix of `cols` columns: what its parts are follows from their types (docs/onnx.md).
    Stored matrix(uint32_t cols) {
        const size_t first = index_;
        const Tensor codes = next();
        Stored stored;
        stored.cols = cols;
        stored.codes = codes.as<uint8_t>();
        require(!codes.shape.empty() && codes.shape[0] >= 1 && codes.shape[0] <= kMaxSize, "the matrix in input ",
                first, " has no rows, or too many");
        stored.rows = static_cast<uint32_t>(codes.shape[0]);
        if (codes.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
            require(codes.is({stored.rows, cols}), "the matrix in input ", first, " does not have ", cols, " columns");
            stored.scheme = Scheme::float32;
            return stored;
        }
        const int64_t groups = cols / ml::kGroup;
        const bool wide = codes.is({stored.rows, groups, 32});
        require(codes.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 && cols % ml::kGroup == 0 &&
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

    // Matrices that read the same input, of rows[i] rows each: stored as one, or one by one.
    std::vector<Stored> matrices(const std::vector<uint32_t> &rows, uint32_t cols) {
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

    void expect_end() const {
        require(index_ == count_, "a node has ", count_, " inputs where ", index_, " were expected");
    }

private:
    const uint16_t *halves(uint32_t rows, int64_t groups) {
        const Tensor tensor = next();
        require(tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 && tensor.is({rows, groups}), "input ", index_ - 1,
                " is not float16 of shape [", rows, ", ", groups, "]");
        return tensor.as<uint16_t>();
    }

    bool next_is_halves() {
        const OrtValue *value = nullptr;
        return index_ < count_ && constant(info_, index_, &value) &&
               tensor_of(value, "a weight").type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    }

    const OrtKernelInfo *info_;
    size_t index_, count_ = 0;
};

Record checked(Record record, uint32_t kind) {
    ran(ml_check_record(record.view(), kind));
    return record;
}

float widened(uint16_t half) {
    const uint32_t sign = uint32_t{half & 0x8000u} << 16, exponent = half >> 10 & 31u, fraction = half & 1023u;
    if (exponent == 0) { // zero or subnormal: fraction * 2^-24
        const float value = static_cast<float>(fraction) * 0x1p-24f;
        return sign ? -value : value;
    }
    const uint32_t bits = sign | (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// -- mobileloop::loop ------------------------------------------------------------------------------------------------

// Inputs: hidden, loops, position, cos, sin, mask, keys, values, then the weights. cos, sin and mask are what the body
// needs in place of the attributes rope_theta and rope_pairing.
class Loop {
public:
    static constexpr const char *kName = "loop";
    static constexpr size_t kLoops = 1, kPosition = 2, kKeys = 6, kValues = 7, kInputs = 8, kOutputs = 3;

    static ONNXTensorElementDataType input_type(size_t index) {
        if (index == kLoops || index == kPosition) return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
        return index < kKeys ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    }

    Loop(const OrtKernelInfo *info, std::shared_ptr<Pool> pool) : pool_(std::move(pool)) {
        for (const size_t cache : {kKeys, kValues}) {
            const OrtValue *value = nullptr;
            require(!Constants::constant(info, cache, &value), "a KV cache is a constant of the file");
        }
        const uint32_t blocks = size_attribute(info, "num_blocks", kMaxSmall);
        BlockShape shape;
        shape.hidden = size_attribute(info, "hidden_size", kMaxSize);
        shape.intermediate = size_attribute(info, "intermediate_size", kMaxSize);
        shape.heads = size_attribute(info, "num_heads", kMaxSmall);
        shape.kv_heads = size_attribute(info, "num_kv_heads", kMaxSmall);
        shape.head_dim = size_attribute(info, "head_dim", kMaxSmall);
        shape.interleaved = interleaved_attribute(info);
        shape.eps = number_attribute(info, "rms_norm_eps");
        shape.theta = number_attribute(info, "rope_theta");
        shape_ = shape;
        damping_ = number_attribute(info, "damping");
        max_loops_ = attribute(info, "max_loops", 1, kMaxSlots);
        slot_base_ = attribute(info, "slot_base", 0, kMaxSlots);
        require(blocks * max_loops_ <= kMaxSlots, "a stage of ", blocks, " blocks and ", max_loops_,
                " loops needs more than ", kMaxSlots, " KV slots");
        Constants constants(info, kInputs);
        for (uint32_t block = 0; block < blocks; block++) records_.push_back(block_record(constants));
        for (const Record &record : records_) blocks_.push_back(record.view());
        if (attribute(info, "loop_end_norm", 0, 1)) {
            const float *norm = constants.norm(shape.hidden);
            loop_end_norm_.assign(norm, norm + shape.hidden);
        }
        constants.expect_end();
    }

    void run(OrtKernelContext *context) const {
        const Tensor hidden = hidden_states(context, shape_.hidden);
        const Tensor keys = cache(context, kKeys), values = cache(context, kValues);
        const int64_t tokens = hidden.shape[0], capacity = keys.shape[2];
        const int64_t loops = whole_number(context, kLoops, "loops");
        const int64_t position = whole_number(context, kPosition, "position");
        require(keys.type == values.type && keys.shape == values.shape,
                "the two KV caches differ in their shape or type");
        require(loops >= 1 && loops <= max_loops_, "loops ", loops, " is outside 1-", max_loops_,
                ", the bound this file was exported for");
        require(position >= 0 && capacity <= INT32_MAX && position <= capacity - tokens, "position ", position,
                " plus ", tokens, " tokens is beyond the KV capacity of ", capacity);
        const auto applications = loops * static_cast<int64_t>(blocks_.size());
        const std::vector<int64_t> rows{applications, shape_.kv_heads, tokens, shape_.head_dim};
        float *hidden_out = output(context, 0, hidden.shape);
        apply(hidden, hidden_out, keys, values, static_cast<uint32_t>(loops), static_cast<uint32_t>(position));
        give_new_rows(keys, position, rows, output(context, 1, rows));
        give_new_rows(values, position, rows, output(context, 2, rows));
    }

private:
    // The order of a block's inputs is that of mobileloop_export.onnx.stage.block_inputs.
    Record block_record(Constants &constants) const {
        const uint32_t query_size = shape_.heads * shape_.head_dim, kv_size = shape_.kv_heads * shape_.head_dim;
        BlockTensors tensors;
        tensors.input_norm = constants.norm(shape_.hidden);
        tensors.post_attention_norm = constants.norm(shape_.hidden);
        const std::vector<Stored> qkv = constants.matrices({query_size, kv_size, kv_size}, shape_.hidden);
        tensors.query = qkv[0], tensors.key = qkv[1], tensors.value = qkv[2];
        tensors.output = constants.matrices({shape_.hidden}, query_size)[0];
        const std::vector<Stored> both = constants.matrices({shape_.intermediate, shape_.intermediate}, shape_.hidden);
        tensors.gate = both[0], tensors.up = both[1];
        tensors.down = constants.matrices({shape_.hidden}, shape_.intermediate)[0];
        return checked(Record::block(shape_, tensors), 1);
    }

    // [slots, kv_heads, capacity, head_dim]
    Tensor cache(const OrtKernelContext *context, size_t index) const {
        Tensor tensor = input(context, index, "a KV cache");
        const bool floats = tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
        require((floats || tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) && tensor.shape.size() == 4 &&
                    tensor.shape[1] == shape_.kv_heads && tensor.shape[3] == shape_.head_dim && tensor.shape[2] >= 1,
                "a KV cache is not float16 or float32 of shape [slots, ", shape_.kv_heads, ", capacity, ",
                shape_.head_dim, "]");
        const int64_t slots = static_cast<int64_t>(blocks_.size()) * max_loops_;
        require(slot_base_ + slots <= tensor.shape[0], "a KV cache of ", tensor.shape[0],
                " slots is too small for the slots ", slot_base_, " to ", slot_base_ + slots - 1, " of a stage");
        return tensor;
    }

    size_t slot_bytes(const Tensor &cache) const {
        return static_cast<size_t>(shape_.kv_heads) * cache.shape[2] * shape_.head_dim * element_bytes(cache.type);
    }

    uint8_t *first_slot(const Tensor &cache) const { return cache.as<uint8_t>() + slot_bytes(cache) * slot_base_; }

    // The stage on all tokens, a few at a time; the engine writes their keys and values into the caches.
    void apply(const Tensor &hidden, float *hidden_out, const Tensor &keys, const Tensor &values, uint32_t loops,
               uint32_t position) const {
        const auto tokens = static_cast<uint32_t>(hidden.shape[0]);
        ml_loop_args args{};
        args.blocks = blocks_.data();
        args.num_blocks = static_cast<uint32_t>(blocks_.size());
        args.loops = loops;
        args.damping = damping_;
        args.loop_end_norm = loop_end_norm_.empty() ? nullptr : loop_end_norm_.data();
        args.loop_end_norm_eps = shape_.eps;
        args.hidden_size = shape_.hidden;
        args.kv_type = keys.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? ML_KV_F32 : ML_KV_F16;
        args.num_slots = static_cast<uint32_t>(blocks_.size() * static_cast<size_t>(max_loops_));
        args.capacity = static_cast<uint32_t>(keys.shape[2]);
        ml_sequence sequence{first_slot(keys), first_slot(values), slot_bytes(keys) * args.num_slots, position};
        args.sequences = &sequence;
        args.num_sequences = 1;
        const std::lock_guard<std::mutex> lock(pool_->mutex);
        for (uint32_t done = 0; done < tokens; done += args.tokens) {
            args.tokens = std::min(kTokensPerCall, tokens - done);
            sequence.position = position + done;
            args.hidden_in = hidden.as<float>() + size_t{done} * shape_.hidden;
            args.hidden_out = hidden_out + size_t{done} * shape_.hidden;
            ran(ml_loop(pool_->context, &args));
        }
    }

    // What the engine wrote behind `position`, as float32 [applications, kv_heads, tokens, head_dim].
    void give_new_rows(const Tensor &cache, int64_t position, const std::vector<int64_t> &rows, float *out) const {
        const uint8_t *slots = first_slot(cache);
        const size_t bytes = element_bytes(cache.type), values = static_cast<size_t>(rows[2]) * shape_.head_dim;
        const size_t per_head = static_cast<size_t>(cache.shape[2]) * shape_.head_dim * bytes;
        const auto heads = static_cast<size_t>(rows[0]) * shape_.kv_heads;
        for (size_t head = 0; head < heads; head++, out += values) {
            const uint8_t *from = slots + head * per_head + static_cast<size_t>(position) * shape_.head_dim * bytes;
            if (bytes == sizeof(float)) {
                std::memcpy(out, from, values * sizeof(float));
            } else {
                const auto *halves = reinterpret_cast<const uint16_t *>(from);
                for (size_t i = 0; i < values; i++) out[i] = widened(halves[i]);
            }
        }
    }

    std::shared_ptr<Pool> pool_;
    BlockShape shape_;
    float damping_ = 1;
    int64_t max_loops_ = 1, slot_base_ = 0;
    std::vector<float> loop_end_norm_;
    std::vector<Record> records_;
    std::vector<ml_record> blocks_;
};

// -- mobileloop::head ------------------------------------------------------------------------------------------------

// Inputs: hidden [rows, hidden], then, where `normed` says so, the final norm, and the matrix [vocab, hidden].
class Head {
public:
    static constexpr const char *kName = "head";
    static constexpr size_t kInputs = 1, kOutputs = 1;

    static ONNXTensorElementDataType input_type(size_t index) {
        return index == 0 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    }

    Head(const OrtKernelInfo *info, std::shared_ptr<Pool> pool)
        : pool_(std::move(pool)), hidden_(size_attribute(info, "hidden_size", kMaxSize)),
          vocab_(size_attribute(info, "vocab_size", kMaxSize)), eps_(number_attribute(info, "rms_norm_eps")) {
        Constants constants(info, kInputs);
        if (attribute(info, "normed", 0, 1)) {
            const float *norm = constants.norm(hidden_);
            norm_.assign(norm, norm + hidden_);
        }
        record_.push_back(checked(Record::matrix(constants.matrices({vocab_}, hidden_)[0]), 2));
        constants.expect_end();
    }

    void run(OrtKernelContext *context) const {
        const Tensor hidden = hidden_states(context, hidden_);
        float *logits = output(context, 0, {hidden.shape[0], vocab_});
        const std::lock_guard<std::mutex> lock(pool_->mutex);
        ran(ml_head(pool_->context, record_[0].view(), norm_.empty() ? nullptr : norm_.data(), eps_, hidden.as<float>(),
                    static_cast<uint32_t>(hidden.shape[0]), hidden_, logits, vocab_));
    }

private:
    std::shared_ptr<Pool> pool_;
    uint32_t hidden_, vocab_;
    float eps_;
    std::vector<float> norm_;
    std::vector<Record> record_; // one
};

// -- registration ----------------------------------------------------------------------------------------------------

// What ONNX Runtime calls for an operator; the weights are its variadic input.
template <typename Kernel> struct Operator : OrtCustomOp {
    Threads threads;

    explicit Operator(const Threads &wanted) : OrtCustomOp{}, threads(wanted) {
        version = kApiVersion;
        GetName = [](const OrtCustomOp *) { return Kernel::kName; };
        GetExecutionProviderType = [](const OrtCustomOp *) -> const char * { return nullptr; };
        GetInputTypeCount = [](const OrtCustomOp *) { return Kernel::kInputs + 1; };
        GetInputType = [](const OrtCustomOp *, size_t index) { return Kernel::input_type(index); };
        GetInputCharacteristic = [](const OrtCustomOp *, size_t index) {
            return index == Kernel::kInputs ? INPUT_OUTPUT_VARIADIC : INPUT_OUTPUT_REQUIRED;
        };
        GetInputMemoryType = [](const OrtCustomOp *, size_t) { return OrtMemTypeDefault; };
        GetVariadicInputMinArity = [](const OrtCustomOp *) { return 1; };
        GetVariadicInputHomogeneity = [](const OrtCustomOp *) { return 0; };
        GetVariadicOutputMinArity = [](const OrtCustomOp *) { return 1; };
        GetVariadicOutputHomogeneity = [](const OrtCustomOp *) { return 1; };
        GetOutputTypeCount = [](const OrtCustomOp *) { return Kernel::kOutputs; };
        GetOutputType = [](const OrtCustomOp *, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
        GetOutputCharacteristic = [](const OrtCustomOp *, size_t) { return INPUT_OUTPUT_REQUIRED; };
        GetStartVersion = [](const OrtCustomOp *) { return 1; };
        GetEndVersion = [](const OrtCustomOp *) { return INT32_MAX; };
        CreateKernelV2 = [](const OrtCustomOp *self, const OrtApi *, const OrtKernelInfo *info, void **kernel) {
            return guarded([&] {
                *kernel = nullptr;
                *kernel = new Kernel(info, pool_of(static_cast<const Operator *>(self)->threads));
                kernels_made++;
            });
        };
        KernelComputeV2 = [](void *kernel, OrtKernelContext *context) {
            return guarded([&] { static_cast<const Kernel *>(kernel)->run(context); });
        };
        KernelDestroy = [](void *kernel) { delete static_cast<Kernel *>(kernel); };
    }
};

// The operators of sessions with the same threads. Sessions keep pointers to them, so they are never freed.
struct Domain {
    Operator<Loop> loop;
    Operator<Head> head;
    OrtCustomOpDomain *domain = nullptr;

    explicit Domain(const Threads &threads) : loop(threads), head(threads) {
        ran(ort->CreateCustomOpDomain("mobileloop", &domain));
        ran(ort->CustomOpDomain_Add(domain, &loop));
        ran(ort->CustomOpDomain_Add(domain, &head));
    }
};

OrtCustomOpDomain *domain_of(const Threads &threads) {
    static std::mutex mutex;
    static auto *domains = new std::map<Threads, std::unique_ptr<Domain>>;
    const std::lock_guard<std::mutex> lock(mutex);
    std::unique_ptr<Domain> &held = (*domains)[threads];
    if (!held) held = std::make_unique<Domain>(threads);
    return held->domain;
}

// A configuration entry of the session, empty where it has none.
std::string entry_of(const OrtSessionOptions *options, const char *key) {
    int there = 0;
    ran(ort->HasSessionConfigEntry(options, key, &there));
    if (!there) return {};
    std::array<char, 8192> text{}; // a list of every cpu that the engine knows is shorter
    size_t size = text.size();
    ran(ort->GetSessionConfigEntry(options, key, text.data(), &size));
    return text.data();
}

uint32_t number_of(const std::string &text, const char *key, uint32_t least, uint32_t most) {
    char *end = nullptr;
    const bool digit = !text.empty() && text[0] >= '0' && text[0] <= '9';
    const unsigned long number = digit ? std::strtoul(text.c_str(), &end, 10) : 0;
    require(digit && *end == '\0' && number >= least && number <= most, "the session's ", key, " holds '", text,
            "', which is not a number from ", least, " to ", most);
    return static_cast<uint32_t>(number);
}

// The session's configuration entries; without them the big cores. Cpus are numbers with commas between.
Threads threads_of(const OrtSessionOptions *options) {
    Threads threads{ml_default_threads(), {}};
    if (const std::string count = entry_of(options, kThreadsKey); !count.empty())
        threads.count = number_of(count, kThreadsKey, 1, kMaxThreads);
    const std::string list = entry_of(options, kCpusKey);
    for (size_t begin = 0; begin < list.size();) {
        const size_t end = std::min(list.find(',', begin), list.size());
        threads.cpus.push_back(number_of(list.substr(begin, end - begin), kCpusKey, 0, kMaxCpu));
        begin = end + 1;
    }
    return threads;
}

} // namespace

extern "C" {

// What ONNX Runtime looks for in a library of operators. Set the session's entries mobileloop.threads and, for
// cpus of its own, mobileloop.cpus before.
ML_API OrtStatus *ORT_API_CALL RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    const OrtApi *api = base->GetApi(kApiVersion);
    if (!api) return base->GetApi(1)->CreateStatus(ORT_FAIL, "mobileloop needs ONNX Runtime 1.22 or later");
    ort.held.store(api);
    return guarded([&] { ran(ort->AddCustomOpDomain(options, domain_of(threads_of(options)))); });
}

// Kernels that sessions made on the calling thread so far: a session that took them over made one per node.
ML_API uint64_t mobileloop_onnxruntime_kernels_made(void) { return kernels_made; }

} // extern "C"
