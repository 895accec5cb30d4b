// The engine's operators for ExecuTorch: mobileloop::embed, mobileloop::loop and mobileloop::head.
//
// Loading this library registers them with the runtime in the same process. Blocks are constant tensors of the .pte,
// read in place; KV caches are mutable buffers, updated in place. Schemas live in mobileloop_export/executorch.py.
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
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
std::unique_ptr<ml_context, ContextDeleter> shared;
thread_local std::string last_error;

// One pool for all operators of the process. Held by the caller for the length of one operator.
ml_context *locked_context() {
    if (!shared) {
        ml_context *made = nullptr;
        const uint32_t cores = std::thread::hardware_concurrency();
        if (ml_context_create(wanted_threads ? wanted_threads : (cores ? cores : 1), &made) != ML_OK) return nullptr;
        shared.reset(made);
    }
    return shared.get();
}

void fail(KernelRuntimeContext &context, const std::string &why) {
    last_error = why;
    ET_LOG(Error, "mobileloop: %s", why.c_str());
    context.fail(Error::InvalidArgument);
}

bool expect(KernelRuntimeContext &context, bool holds, const char *why) {
    if (!holds) fail(context, why);
    return holds;
}

ml_record record(const Tensor &tensor) { return {tensor.const_data_ptr(), static_cast<uint64_t>(tensor.nbytes())}; }

bool one_whole_number(const Tensor &tensor) { return tensor.scalar_type() == ScalarType::Long && tensor.numel() == 1; }

// [1, rows, columns]
bool resize(Tensor &out, int64_t rows, int64_t columns) {
    const SizesType sizes[3] = {1, static_cast<SizesType>(rows), static_cast<SizesType>(columns)};
    return executorch::runtime::resize_tensor(out, {sizes, 3}) == Error::Ok;
}

bool is_hidden(const Tensor &tensor) {
    return tensor.scalar_type() == ScalarType::Float && tensor.dim() == 3 && tensor.size(0) == 1 && tensor.size(1) >= 1;
}

// embed.out(Tensor tokens, Tensor table, int hidden, *, Tensor(a!) out)
void embed_out(KernelRuntimeContext &context, Span<EValue *> stack) {
    const Tensor &tokens = stack[0]->toTensor();
    const Tensor &table = stack[1]->toTensor();
    const int64_t hidden = stack[2]->toInt();
    Tensor &out = stack[3]->toTensor();
    if (!expect(context, tokens.scalar_type() == ScalarType::Long && tokens.dim() == 2 && tokens.size(0) == 1,
                "tokens are not int64 of shape [1, tokens]") ||
        !expect(context, hidden > 0 && resize(out, tokens.size(1), hidden), "the embedding output cannot be resized"))
        return;
    const std::lock_guard<std::mutex> lock(mutex);
    ml_context *engine = locked_context();
    if (!engine ||
        ml_embed(engine, record(table), tokens.const_data_ptr<int64_t>(), static_cast<uint32_t>(tokens.size(1)),
                 out.mutable_data_ptr<float>(), static_cast<uint32_t>(hidden)) != ML_OK)
        fail(context, ml_last_error());
}

// loop.out(Tensor hidden, Tensor[] blocks, Tensor(a!) keys, Tensor(b!) values, Tensor position, Tensor loops,
//          Tensor? norm, float eps, float damping, *, Tensor(c!) out, Tensor(d!) applied)
void loop_out(KernelRuntimeContext &context, Span<EValue *> stack) {
    const Tensor &hidden = stack[0]->toTensor();
    const auto blocks = stack[1]->toTensorList();
    Tensor &keys = stack[2]->toTensor(), &values = stack[3]->toTensor();
    const Tensor &position = stack[4]->toTensor(), &loops = stack[5]->toTensor();
    const float *norm = stack[6]->isNone() ? nullptr : stack[6]->toTensor().const_data_ptr<float>();
    Tensor &out = stack[9]->toTensor(), &applied = stack[10]->toTensor();
    if (!expect(context, is_hidden(hidden), "hidden states are not float32 of shape [1, tokens, hidden]") ||
        !expect(context, one_whole_number(position) && one_whole_number(loops),
                "position and loops are not one int64 each") ||
        !expect(context,
                keys.dim() == 4 && keys.nbytes() == values.nbytes() && keys.scalar_type() == values.scalar_type(),
                "the KV caches are not [slots, kv_heads, capacity, head_dim] of one type") ||
        !expect(context, !norm || stack[6]->toTensor().numel() == hidden.size(2),
                "the loop-end norm has a wrong size") ||
        !expect(context, resize(out, hidden.size(1), hidden.size(2)), "the loop output cannot be resized"))
        return;
    const int64_t at = *position.const_data_ptr<int64_t>(), count = *loops.const_data_ptr<int64_t>();
    if (!expect(context, at >= 0 && at < keys.size(2), "the position is beyond the exported context") ||
        !expect(context, count >= 1 && count * static_cast<int64_t>(blocks.size()) <= keys.size(0),
                "loops is outside the bound this program was exported for"))
        return;
    std::vector<ml_record> records;
    for (const Tensor &block : blocks) records.push_back(record(block));
    uint32_t ran = 0;
    ml_loop_args args{};
    args.blocks = records.data();
    args.num_blocks = static_cast<uint32_t>(records.size());
    args.loops = static_cast<uint32_t>(count);
    args.damping = static_cast<float>(stack[8]->toDouble());
    args.loop_end_norm = norm;
    args.loop_end_norm_eps = static_cast<float>(stack[7]->toDouble());
    args.hidden_in = hidden.const_data_ptr<float>();
    args.hidden_out = out.mutable_data_ptr<float>();
    args.hidden_size = static_cast<uint32_t>(hidden.size(2));
    args.tokens = static_cast<uint32_t>(hidden.size(1));
    args.position = static_cast<uint32_t>(at);
    args.key_cache = keys.mutable_data_ptr();
    args.value_cache = values.mutable_data_ptr();
    args.cache_bytes = keys.nbytes();
    args.kv_type = keys.scalar_type() == ScalarType::Float ? ML_KV_F32 : ML_KV_F16;
    args.num_slots = static_cast<uint32_t>(keys.size(0));
    args.capacity = static_cast<uint32_t>(keys.size(2));
    args.applied_loops = &ran;
    const std::lock_guard<std::mutex> lock(mutex);
    ml_context *engine = locked_context();
    if (!engine || ml_loop(engine, &args) != ML_OK) return fail(context, ml_last_error());
    *applied.mutable_data_ptr<int64_t>() = ran;
}

// head.out(Tensor hidden, Tensor table, Tensor? norm, float eps, int vocab, bool last_only, *, Tensor(a!) out)
void head_out(KernelRuntimeContext &context, Span<EValue *> stack) {
    const Tensor &hidden = stack[0]->toTensor(), &table = stack[1]->toTensor();
    const float *norm = stack[2]->isNone() ? nullptr : stack[2]->toTensor().const_data_ptr<float>();
    const int64_t vocab = stack[4]->toInt();
    Tensor &out = stack[6]->toTensor();
    if (!expect(context, is_hidden(hidden), "hidden states are not float32 of shape [1, tokens, hidden]") ||
        !expect(context, !norm || stack[2]->toTensor().numel() == hidden.size(2), "the final norm has a wrong size"))
        return;
    const int64_t rows = stack[5]->toBool() ? 1 : hidden.size(1), columns = hidden.size(2);
    if (!expect(context, vocab > 0 && resize(out, rows, vocab), "the logits cannot be resized")) return;
    const std::lock_guard<std::mutex> lock(mutex);
    ml_context *engine = locked_context();
    const float *first = hidden.const_data_ptr<float>() + (hidden.size(1) - rows) * columns;
    if (!engine || ml_head(engine, record(table), norm, static_cast<float>(stack[3]->toDouble()), first,
                           static_cast<uint32_t>(rows), static_cast<uint32_t>(columns), out.mutable_data_ptr<float>(),
                           static_cast<uint32_t>(vocab)) != ML_OK)
        fail(context, ml_last_error());
}

const executorch::runtime::Kernel kernels[] = {
    executorch::runtime::Kernel("mobileloop::embed.out", embed_out),
    executorch::runtime::Kernel("mobileloop::loop.out", loop_out),
    executorch::runtime::Kernel("mobileloop::head.out", head_out),
};

const Error registered = executorch::runtime::register_kernels({kernels, 3});

} // namespace

extern "C" {

// 0 when the operators are registered.
ML_API int mobileloop_executorch_status(void) { return static_cast<int>(registered); }

// Threads of all operators from here on; 0 takes every core.
ML_API void mobileloop_executorch_set_threads(uint32_t threads) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (shared && threads == wanted_threads) return;
    wanted_threads = threads;
    shared.reset();
}

// Why the last operator of the calling thread failed.
ML_API const char *mobileloop_executorch_last_error(void) { return last_error.c_str(); }

} // extern "C"
