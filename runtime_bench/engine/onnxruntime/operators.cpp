// The engine's operators for ONNX Runtime: mobileloop::loop and mobileloop::head (docs/onnx.md).
//
// The nodes are calls of functions of the file; a session that has registered this library runs these kernels for them
// instead of the functions' bodies. A kernel packs the weights, constant inputs of its node, into records when it is
// made. KV rows of the new tokens are written into the caches at `position`, where the body reads nothing, and given
// out as the body does.
#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bounds.h"
#include "error.h"
#include "format/half.h"
#include "mobileloop.h"
#include "node.h"
#include "records.h"
#include "threads.h"

namespace ml::onnx {
namespace {

constexpr uint32_t kApiVersion = 22; // of ONNX Runtime: the oldest that has all that is used here
thread_local uint64_t kernels_made = 0;

Record checked(Record record, uint32_t kind) {
    ran(ml_check_record(record.view(), kind));
    return record;
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
        const uint32_t blocks = size_attribute(info, "num_blocks", kMaxHeads);
        BlockShape shape;
        shape.hidden = size_attribute(info, "hidden_size", kMaxExtent);
        shape.intermediate = size_attribute(info, "intermediate_size", kMaxExtent);
        shape.heads = size_attribute(info, "num_heads", kMaxHeads);
        shape.kv_heads = size_attribute(info, "num_kv_heads", kMaxHeads);
        shape.head_dim = size_attribute(info, "head_dim", kMaxHeads);
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
            args.tokens = std::min(kChunk, tokens - done);
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
                for (size_t i = 0; i < values; i++) out[i] = half_to_float(halves[i]);
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
        : pool_(std::move(pool)), hidden_(size_attribute(info, "hidden_size", kMaxExtent)),
          vocab_(size_attribute(info, "vocab_size", kMaxExtent)), eps_(number_attribute(info, "rms_norm_eps")) {
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

} // namespace
} // namespace ml::onnx

using namespace ml::onnx;

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
