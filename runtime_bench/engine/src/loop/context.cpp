#include "loop/context.h"

#include <algorithm>

#include "bounds.h"
#include "error.h"

namespace ml {

Activations ActivationScratch::rows(size_t tokens, size_t size) {
    Activations a;
    a.stride = (size + kGroup - 1) / kGroup * kGroup;
    a.floats = floats.at_least(tokens * a.stride);
    a.high = high.at_least(tokens * a.stride);
    a.low = low.at_least(tokens * a.stride);
    a.scales = scales.at_least(tokens * a.stride / kGroup);
    a.offsets = offsets.at_least(tokens * a.stride / kGroup);
    a.eights = eights.at_least(tokens * a.stride / kGroup);
    return a;
}

} // namespace ml

using namespace ml;

namespace {

uint32_t checked_threads(uint32_t threads) {
    require(threads >= 1 && threads <= kMaxThreads, "threads ", threads, " is outside 1-", kMaxThreads);
    return threads;
}

} // namespace

ml_context::ml_context(uint32_t threads)
    : pool(checked_threads(threads)), placement(pool, machine_topology()), kernels(current_kernels()),
      private_(pool.size()), streams_(pool.size()) {}

void ml_context::stream(uint32_t mode, uint32_t stream_threads) {
    require(mode <= ML_STREAM_CORE, "the streaming mode ", mode, " is unknown");
    require(mode != ML_STREAM_CORE || (stream_threads >= 1 && stream_threads < pool.size()), "of ", pool.size(),
            " threads, ", stream_threads, " are to stream; at least one must stream and one compute");
    stream_mode_ = mode;
    stream_threads_ = stream_threads;
}

void ml_context::embed(const Matrix &embedding, const int64_t *tokens, uint32_t count, float *out) {
    for (uint32_t t = 0; t < count; t++)
        require(tokens[t] >= 0 && tokens[t] < int64_t{embedding.rows}, "token ", tokens[t],
                " is outside the vocabulary of ", embedding.rows);
    for (uint32_t t = 0; t < count; t++)
        dequantize_row(embedding, static_cast<uint32_t>(tokens[t]), out + size_t{t} * embedding.cols);
}

void ml_context::head(const Matrix &head, const float *norm, float eps, const float *hidden, uint32_t rows,
                      float *logits) {
    const Activations a = private_[0].rows(rows, head.cols);
    const uint32_t threads = pool.ready();
    const auto region = [&](uint32_t thread) {
        const Range own = share(rows, thread, threads);
        for (size_t t = own.begin; t < own.end; t++) {
            const float *x = hidden + t * head.cols;
            float *to = a.floats + t * a.stride;
            if (norm) {
                kernels.rms_norm(x, norm, eps, head.cols, to);
            } else {
                std::copy(x, x + head.cols, to);
            }
            zero_padding(a, t, head.cols);
        }
        if (head.integer()) kernels.quantize(a, own.begin, own.end);
        pool.barrier(thread);
        const Range groups = share(head.row_groups, thread, threads);
        kernels.multiply(head, static_cast<uint32_t>(groups.begin), static_cast<uint32_t>(groups.end), a, rows, logits,
                         head.rows, false, nullptr);
    };
    pool.run(region, threads);
}
