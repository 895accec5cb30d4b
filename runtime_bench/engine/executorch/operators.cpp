// The engine's operators for ExecuTorch: mobileloop::embed, mobileloop::loop and mobileloop::head.
//
// Loading this library registers them with the runtime in the same process. Blocks are constant tensors of the .pte,
// read in place; KV caches are mutable buffers, updated in place. Schemas live in mobileloop_export/executorch.py.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include <executorch/runtime/core/exec_aten/exec_aten.h>
#include <executorch/runtime/core/exec_aten/util/tensor_util.h>
#include <executorch/runtime/kernel/kernel_includes.h>
#include <executorch/runtime/kernel/operator_registry.h>

#include "mobileloop.h"

namespace {

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::KernelRuntimeContext;
using executorch::runtime::Span;

struct ContextDeleter {
    void operator()(ml_context *context) const { ml_context_destroy(context); }
};

std::mutex mutex;
uint32_t wanted_threads = 0;
std::vector<uint32_t> wanted_cpus;
std::unique_ptr<ml_context, ContextDeleter> shared;
thread_local std::string last_error;

constexpr int64_t kMaxSize = 1 << 24; // of hidden states and vocabularies, as in docs/format.md

void ran(ml_status status) {
    if (status != ML_OK) throw std::runtime_error(ml_last_error());
}

// One pool for all operators of the process. Held by the caller for the length of one operator.
ml_context *locked_context() {
    if (!shared) {
        ml_context *made = nullptr;
        ran(ml_context_create(wanted_threads ? wanted_threads : ml_default_threads(), &made));
        std::unique_ptr<ml_context, ContextDeleter> context(made);
        ran(ml_context_place(made, wanted_cpus.data(), static_cast<uint32_t>(wanted_cpus.size())));
        shared.swap(context);
    }
    return shared.get();
}

void fail(KernelRuntimeContext &context, const std::string &why) {
    last_error = why;
    ET_LOG(Error, "mobileloop: %s", why.c_str());
    context.fail(Error::InvalidArgument);
}

void expect(bool holds, const char *why) {
    if (!holds) throw std::invalid_argument(why);
}

// An operator throws what is wrong; the runtime, which knows no exceptions, is told here.
template <void (*Operator)(Span<EValue *>)> void guarded(KernelRuntimeContext &context, Span<EValue *> stack) {
    last_error.clear();
    try {
        Operator(stack);
    } catch (const std::exception &error) {
        fail(context, error.what());
    }
}

// -- arguments: a .pte is untrusted, and its program decides what lies at each place of the stack ------------------

const EValue &at(Span<EValue *> stack, size_t place) {
    expect(place < stack.size() && stack[place] != nullptr, "an operator has too few arguments");
    return *stack[place];
}

void check_tensor(const Tensor &tensor, ScalarType type, const char *why) {
    expect(tensor.scalar_type() == type, why);
    const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
    expect(tensor.numel() == 0 || (address != 0 && address % executorch::runtime::elementSize(type) == 0),
           "a tensor has no data, or its data is not aligned");
}

Tensor tensor_at(Span<EValue *> stack, size_t place, ScalarType type, const char *why) {
    expect(at(stack, place).isTensor(), why);
    const Tensor tensor = at(stack, place).toTensor();
    check_tensor(tensor, type, why);
    return tensor;
}

// [1, tokens, hidden]
Tensor hidden_at(Span<EValue *> stack, size_t place) {
    constexpr const char *kWhy = "hidden states are not float32 of shape [1, tokens, hidden]";
    const Tensor tensor = tensor_at(stack, place, ScalarType::Float, kWhy);
    expect(tensor.dim() == 3 && tensor.size(0) == 1 && tensor.size(1) >= 1 && tensor.size(2) >= 1, kWhy);
    return tensor;
}

// [hidden], or none
const float *norm_at(Span<EValue *> stack, size_t place, int64_t hidden) {
    if (at(stack, place).isNone()) return nullptr;
    constexpr const char *kWhy = "a norm is not float32 of the hidden size";
    const Tensor tensor = tensor_at(stack, place, ScalarType::Float, kWhy);
    expect(tensor.numel() == hidden, kWhy);
    return tensor.const_data_ptr<float>();
}

int64_t whole_number_at(Span<EValue *> stack, size_t place) { // a tensor of one
    constexpr const char *kWhy = "position and loops are not one int64 each";
    const Tensor tensor = tensor_at(stack, place, ScalarType::Long, kWhy);
    expect(tensor.numel() == 1, kWhy);
    return *tensor.const_data_ptr<int64_t>();
}

float number_at(Span<EValue *> stack, size_t place) {
    expect(at(stack, place).isDouble(), "eps or damping is not a number");
    return static_cast<float>(at(stack, place).toDouble());
}

int64_t size_at(Span<EValue *> stack, size_t place) { // of the hidden states or of the vocabulary
    expect(at(stack, place).isInt(), "a size is not a whole number");
    const int64_t size = at(stack, place).toInt();
    expect(size >= 1 && size <= kMaxSize, "a size is outside 1 to 2^24");
    return size;
}

ml_record record(const Tensor &tensor) {
    check_tensor(tensor, ScalarType::Byte, "a record is not bytes");
    return {tensor.const_data_ptr(), static_cast<uint64_t>(tensor.nbytes())};
}

ml_record record_at(Span<EValue *> stack, size_t place) {
    return record(tensor_at(stack, place, ScalarType::Byte, "a record is not bytes"));
}

std::vector<ml_record> blocks_at(Span<EValue *> stack, size_t place) {
    expect(at(stack, place).isTensorList(), "the blocks are not a list of tensors");
    const auto list = at(stack, place).tryToTensorList();
    expect(list.ok() && !list->empty(), "a loop has no blocks");
    std::vector<ml_record> records;
    for (const Tensor &block : *list) records.push_back(record(block));
    return records;
}

ml_kv_type kv_type(const Tensor &cache) {
    return cache.scalar_type() == ScalarType::Float  ? ML_KV_F32
           : cache.scalar_type() == ScalarType::Half ? ML_KV_F16
                                                     : ML_KV_I8;
}

// [slots, kv_heads, capacity, head_dim], or bytes [slots, kv_heads, capacity, ml_kv_vector_bytes] of an int8 cache
Tensor cache_at(Span<EValue *> stack, size_t place) {
    constexpr const char *kWhy =
        "a KV cache is not float32, float16 or bytes of shape [slots, kv_heads, capacity, head_dim]";
    expect(at(stack, place).isTensor(), kWhy);
    const ScalarType type = at(stack, place).toTensor().scalar_type();
    expect(type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::Byte, kWhy);
    const Tensor cache = tensor_at(stack, place, type, kWhy);
    expect(cache.dim() == 4, kWhy);
    uint64_t bytes = executorch::runtime::elementSize(type); // by the sizes, which are a program's to choose
    for (int i = 0; i < 4; i++)
        expect(cache.size(i) >= 1 && !__builtin_mul_overflow(bytes, static_cast<uint64_t>(cache.size(i)), &bytes),
               kWhy);
    expect(bytes == cache.nbytes(), kWhy);
    return cache;
}

// The record is checked in full by the engine; these two fields of its header say how the cache is laid out.
bool fits(const ml_record &block, const Tensor &cache) {
    uint32_t kv_heads_and_dim[2] = {};
    if (block.size_bytes < 64) return false;
    std::memcpy(kv_heads_and_dim, static_cast<const uint8_t *>(block.data) + 36, sizeof kv_heads_and_dim);
    return kv_heads_and_dim[0] == cache.size(1) &&
           ml_kv_vector_bytes(kv_type(cache), kv_heads_and_dim[1]) ==
               static_cast<uint64_t>(cache.size(3)) * executorch::runtime::elementSize(cache.scalar_type());
}

// [1, rows, columns] of float32, to be written
float *output_at(Span<EValue *> stack, size_t place, int64_t rows, int64_t columns) {
    constexpr const char *kWhy = "an output is not float32, or cannot be resized";
    Tensor out = tensor_at(stack, place, ScalarType::Float, kWhy);
    const SizesType sizes[3] = {1, static_cast<SizesType>(rows), static_cast<SizesType>(columns)};
    expect(out.dim() == 3 && executorch::runtime::resize_tensor(out, {sizes, 3}) == Error::Ok, kWhy);
    check_tensor(out, ScalarType::Float, kWhy); // it may have been empty before
    return out.mutable_data_ptr<float>();
}

// -- operators -----------------------------------------------------------------------------------------------------

// embed.out(Tensor tokens, Tensor table, int hidden, *, Tensor(a!) out)
void embed_out(Span<EValue *> stack) {
    constexpr const char *kWhy = "tokens are not int64 of shape [1, tokens]";
    const Tensor tokens = tensor_at(stack, 0, ScalarType::Long, kWhy);
    expect(tokens.dim() == 2 && tokens.size(0) == 1 && tokens.size(1) >= 1, kWhy);
    const ml_record table = record_at(stack, 1);
    const int64_t hidden = size_at(stack, 2);
    float *out = output_at(stack, 3, tokens.size(1), hidden);
    const std::lock_guard<std::mutex> lock(mutex);
    ran(ml_embed(locked_context(), table, tokens.const_data_ptr<int64_t>(), static_cast<uint32_t>(tokens.size(1)), out,
                 static_cast<uint32_t>(hidden)));
}

// loop.out(Tensor hidden, Tensor[] blocks, Tensor(a!) keys, Tensor(b!) values, Tensor position, Tensor loops,
//          Tensor? norm, float eps, float damping, *, Tensor(c!) out, Tensor(d!) applied)
void loop_out(Span<EValue *> stack) {
    const Tensor hidden = hidden_at(stack, 0);
    const std::vector<ml_record> blocks = blocks_at(stack, 1);
    Tensor keys = cache_at(stack, 2), values = cache_at(stack, 3);
    const int64_t position = whole_number_at(stack, 4), loops = whole_number_at(stack, 5);
    expect(keys.nbytes() == values.nbytes() && keys.scalar_type() == values.scalar_type(),
           "the two KV caches differ in their size or type");
    for (const ml_record &block : blocks) expect(fits(block, keys), "a block does not fit the shape of the KV cache");
    expect(position >= 0 && position < keys.size(2), "the position is beyond the exported context");
    expect(loops >= 1 && loops <= keys.size(0) / static_cast<int64_t>(blocks.size()),
           "loops is outside the bound this program was exported for");
    Tensor applied = tensor_at(stack, 10, ScalarType::Long, "the applied loops are not one int64");
    expect(applied.numel() == 1, "the applied loops are not one int64");
    const ml_sequence sequence{keys.mutable_data_ptr(), values.mutable_data_ptr(), keys.nbytes(),
                               static_cast<uint32_t>(position)};
    ml_loop_args args{};
    args.blocks = blocks.data();
    args.num_blocks = static_cast<uint32_t>(blocks.size());
    args.loops = static_cast<uint32_t>(loops);
    args.damping = number_at(stack, 8);
    args.loop_end_norm = norm_at(stack, 6, hidden.size(2));
    args.loop_end_norm_eps = number_at(stack, 7);
    args.hidden_in = hidden.const_data_ptr<float>();
    args.hidden_out = output_at(stack, 9, hidden.size(1), hidden.size(2));
    args.hidden_size = static_cast<uint32_t>(hidden.size(2));
    args.tokens = static_cast<uint32_t>(hidden.size(1));
    args.sequences = &sequence;
    args.num_sequences = 1;
    args.kv_type = kv_type(keys);
    args.num_slots = static_cast<uint32_t>(keys.size(0));
    args.capacity = static_cast<uint32_t>(keys.size(2));
    const std::lock_guard<std::mutex> lock(mutex);
    ran(ml_loop(locked_context(), &args));
    *applied.mutable_data_ptr<int64_t>() = loops; // without a halting rule, all of them
}

// head.out(Tensor hidden, Tensor table, Tensor? norm, float eps, int vocab, bool last_only, *, Tensor(a!) out)
void head_out(Span<EValue *> stack) {
    const Tensor hidden = hidden_at(stack, 0);
    const ml_record table = record_at(stack, 1);
    const float *norm = norm_at(stack, 2, hidden.size(2));
    const float eps = number_at(stack, 3);
    const int64_t vocab = size_at(stack, 4);
    expect(at(stack, 5).isBool(), "last_only is not true or false");
    const int64_t rows = at(stack, 5).toBool() ? 1 : hidden.size(1), columns = hidden.size(2);
    float *out = output_at(stack, 6, rows, vocab);
    const float *first = hidden.const_data_ptr<float>() + (hidden.size(1) - rows) * columns;
    const std::lock_guard<std::mutex> lock(mutex);
    ran(ml_head(locked_context(), table, norm, eps, first, static_cast<uint32_t>(rows), static_cast<uint32_t>(columns),
                out, static_cast<uint32_t>(vocab)));
}

const executorch::runtime::Kernel kernels[] = {
    executorch::runtime::Kernel("mobileloop::embed.out", guarded<embed_out>),
    executorch::runtime::Kernel("mobileloop::loop.out", guarded<loop_out>),
    executorch::runtime::Kernel("mobileloop::head.out", guarded<head_out>),
};

const Error registered = executorch::runtime::register_kernels({kernels, 3});

} // namespace

extern "C" {

// 0 when the operators are registered.
ML_API int mobileloop_executorch_status(void) { return static_cast<int>(registered); }

// Threads of all operators from here on; 0 takes every big core.
ML_API void mobileloop_executorch_set_threads(uint32_t threads) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (shared && threads == wanted_threads) return;
    wanted_threads = threads;
    shared.reset();
}

// The cpus that the threads run on from here on, as in ml_context_place; num_cpus 0 takes the big cores.
ML_API void mobileloop_executorch_set_cpus(const uint32_t *cpus, uint32_t num_cpus) {
    const std::lock_guard<std::mutex> lock(mutex);
    std::vector<uint32_t> given;
    if (cpus) given.assign(cpus, cpus + num_cpus);
    if (given == wanted_cpus) return;
    wanted_cpus.swap(given);
    shared.reset();
}

// Why the last operator of the calling thread failed; empty when it did not.
ML_API const char *mobileloop_executorch_last_error(void) { return last_error.c_str(); }

} // extern "C"
