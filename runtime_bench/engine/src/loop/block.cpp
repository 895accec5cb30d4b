#include "loop/block.h"

#include <algorithm>
#include <cmath>

using namespace ml;

namespace {

void rotate(float *head, const float *cosines, const float *sines, uint32_t head_dim, bool interleaved) {
    const uint32_t half = head_dim / 2;
    for (uint32_t i = 0; i < half; i++) {
        float &first = head[interleaved ? 2 * i : i], &second = head[interleaved ? 2 * i + 1 : half + i];
        const float a = first, b = second;
        first = a * cosines[i] - b * sines[i];
        second = b * cosines[i] + a * sines[i];
    }
}

} // namespace

void ml_context::Application::run() {
    float *query = context_.query_.at_least(0), *attended = context_.attended_.at_least(0);
    float *key = context_.key_.at_least(0), *value = context_.value_.at_least(0);
    Activations a = normed(block_.input_norm, block_.query.integer() || block_.key.integer() || block_.value.integer());
    project(block_.query, a, query, false);
    project(block_.key, a, key, false);
    project(block_.value, a, value, false);
    context_.pool.barrier(thread_);
    rotate_and_store(query, key, value);
    context_.pool.barrier(thread_);
    attend(query, attended);
    context_.pool.barrier(thread_);
    a = copied(attended, query_size_, block_.output.integer());
    project(block_.output, a, stage_.hidden, true);
    context_.pool.barrier(thread_);
    feed_forward();
}

template <typename Fill> Activations ml_context::Application::prepare(size_t size, bool integer, const Fill &fill) {
    const Activations a = context_.private_[stage_.wide ? 0 : thread_].rows(rows_.count, size);
    const Range rows = stage_.wide ? own(rows_.count) : Range{0, 1};
    for (size_t t = rows.begin; t < rows.end; t++) {
        fill(t, a.floats + t * a.stride);
        zero_padding(a, t, size);
    }
    if (integer) kernels_.quantize(a, rows.begin, rows.end);
    if (stage_.wide) context_.pool.barrier(thread_);
    return a;
}

Activations ml_context::Application::normed(const float *scale, bool integer) {
    return prepare(block_.hidden, integer, [&](size_t t, float *to) {
        kernels_.rms_norm(stage_.hidden + t * block_.hidden, scale, block_.eps, block_.hidden, to);
    });
}

Activations ml_context::Application::copied(const float *from, size_t size, bool integer) {
    return prepare(size, integer, [&](size_t t, float *to) { std::copy(from + t * size, from + (t + 1) * size, to); });
}

void ml_context::Application::project(const Matrix &matrix, const Activations &a, float *y, bool accumulate) const {
    const Range groups = own(matrix.row_groups);
    kernels_.multiply(matrix, static_cast<uint32_t>(groups.begin), static_cast<uint32_t>(groups.end), a, rows_.count, y,
                      matrix.rows, accumulate, stage_.prefetching ? &context_.streams_[thread_] : nullptr);
}

void ml_context::Application::rotate_and_store(float *query, float *key, const float *value) {
    const float *rotary = context_.rotary_.at_least(0);
    const Range pairs = own(rows_.count * block_.heads);
    for (size_t i = pairs.begin; i < pairs.end; i++) {
        const float *cosines = rotary + rows_.of_call(i / block_.heads) * head_dim_;
        rotate(query + i * head_dim_, cosines, cosines + head_dim_ / 2, block_.head_dim, block_.interleaved);
    }
    const KvKernels &kv = kernels_.kv(args_.kv_type);
    const Range kv_pairs = own(rows_.count * block_.kv_heads);
    for (size_t i = kv_pairs.begin; i < kv_pairs.end; i++) {
        const size_t row = rows_.of_call(i / block_.kv_heads), head = i % block_.kv_heads;
        const float *cosines = rotary + row * head_dim_;
        rotate(key + i * head_dim_, cosines, cosines + head_dim_ / 2, block_.head_dim, block_.interleaved);
        const ml_sequence &sequence = stage_.sequence_of(row);
        const size_t at = stage_.position_of(row) * stage_.kv_row_bytes;
        kv.store(key + i * head_dim_, head_dim_, stage_.part_of(sequence.key_cache, slot_, head) + at);
        kv.store(value + i * head_dim_, head_dim_, stage_.part_of(sequence.value_cache, slot_, head) + at);
    }
}

// A thread owns a run of query heads, and those that share a key take it together. Several rows that still loop are
// dealt out in turn instead: later tokens attend to more.
void ml_context::Application::attend(const float *query, float *attended) const {
    const size_t group = block_.heads / block_.kv_heads;
    if (rows_.count > 1) {
        for (size_t i = thread_; i < rows_.count * block_.kv_heads; i += stage_.threads)
            attend_heads(query, attended, i / block_.kv_heads, i % block_.kv_heads * group, group);
        return;
    }
    const Range heads = own(block_.heads);
    for (size_t head = heads.begin; head < heads.end;) {
        const size_t count = std::min(heads.end - head, group - head % group);
        attend_heads(query, attended, 0, head, count);
        head += count;
    }
}

void ml_context::Application::attend_heads(const float *query, float *attended, size_t i, size_t head,
                                           size_t count) const {
    const size_t at = i * query_size_ + head * head_dim_, kv_head = head / (block_.heads / block_.kv_heads);
    const size_t row = rows_.of_call(i);
    const ml_sequence &sequence = stage_.sequence_of(row);
    const uint32_t length = args_.full_attention ? sequence.position + args_.tokens : stage_.position_of(row) + 1;
    kernels_.kv(args_.kv_type)
        .attend({query + at, stage_.part_of(sequence.key_cache, slot_, kv_head),
                 stage_.part_of(sequence.value_cache, slot_, kv_head), length, block_.head_dim,
                 static_cast<uint32_t>(count), 1.0f / std::sqrt(static_cast<float>(head_dim_)), attended + at});
}

void ml_context::Application::feed_forward() {
    float *gate = context_.gate_.at_least(0), *up = context_.up_.at_least(0);
    const size_t size = block_.intermediate;
    Activations a = normed(block_.post_attention_norm, block_.gate.integer() || block_.up.integer());
    project(block_.gate, a, gate, false);
    project(block_.up, a, up, false);
    const Range groups = own(block_.gate.row_groups);
    const size_t begin = groups.begin * kTileRows, end = std::min<size_t>(groups.end * kTileRows, size);
    for (size_t t = 0; t < rows_.count && begin < end; t++)
        kernels_.silu_multiply(gate + t * size + begin, up + t * size + begin, end - begin);
    context_.pool.barrier(thread_);
    a = copied(gate, size, block_.down.integer());
    project(block_.down, a, stage_.hidden, true);
    context_.pool.barrier(thread_);
}
