#include "context.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "error.h"

namespace ml {

Activations ActivationScratch::rows(size_t tokens, size_t size) {
    Activations a;
    a.stride = (size + kGroup - 1) / kGroup * kGroup;
    a.floats = floats.at_least(tokens * a.stride);
    a.high = high.at_least(tokens * a.stride);
    a.low = low.at_least(tokens * a.stride);
    a.scales = scales.at_least(tokens * a.stride / kGroup);
    a.sums = sums.at_least(tokens * a.stride / kGroup);
    return a;
}

namespace {

struct Range {
    size_t begin, end;
};

// The part of `total` that a thread owns: the same for every application, so that a core meets its own rows again.
Range share(size_t total, uint32_t thread, uint32_t threads) {
    return {total * thread / threads, total * (thread + 1) / threads};
}

void zero_padding(const Activations &a, size_t row, size_t size) {
    std::fill(a.floats + row * a.stride + size, a.floats + (row + 1) * a.stride, 0.0f);
}

void rotate(float *head, const float *cosines, const float *sines, uint32_t head_dim, bool interleaved) {
    const uint32_t half = head_dim / 2;
    for (uint32_t i = 0; i < half; i++) {
        float &first = head[interleaved ? 2 * i : i], &second = head[interleaved ? 2 * i + 1 : half + i];
        const float a = first, b = second;
        first = a * cosines[i] - b * sines[i];
        second = b * cosines[i] + a * sines[i];
    }
}

uint64_t product(std::initializer_list<uint64_t> factors) {
    uint64_t result = 1;
    for (const uint64_t factor : factors)
        require(!__builtin_mul_overflow(result, factor, &result), "a size overflows 64 bits");
    return result;
}

} // namespace
} // namespace ml

using namespace ml;

// What all applications of one call share.
struct ml_context::Stage {
    const ml_loop_args &args;
    float *hidden; // [tokens, hidden]
    size_t tokens;
    bool wide;        // more than one token
    uint32_t threads; // of the pool
};

ml_context::ml_context(uint32_t threads)
    : pool(threads), kernels(current_kernels()), private_(pool.size()), scores_(pool.size()) {}

void ml_context::embed(const Matrix &embedding, const int64_t *tokens, uint32_t count, float *out) {
    for (uint32_t t = 0; t < count; t++)
        require(tokens[t] >= 0 && tokens[t] < int64_t{embedding.rows}, "token ", tokens[t],
                " is outside the vocabulary of ", embedding.rows);
    const size_t bytes = tile_bytes(embedding.scheme);
    for (uint32_t t = 0; t < count; t++) {
        const uint32_t row = static_cast<uint32_t>(tokens[t]), r = row % kTileRows;
        float *to = out + size_t{t} * embedding.cols;
        for (uint32_t i = 0; i < embedding.cols; i++) {
            const uint32_t g = i / kGroup, k = i % kGroup;
            const uint8_t *tile = embedding.tiles + (size_t{row / kTileRows} * embedding.groups + g) * bytes;
            const auto half = [&](size_t offset) {
                uint16_t bits;
                std::memcpy(&bits, tile + offset + 2 * r, sizeof bits);
                return half_to_float(bits);
            };
            switch (embedding.scheme) {
            case Scheme::float32: std::memcpy(to + i, tile + 4 * (k * 8 + r), sizeof(float)); break;
            case Scheme::int8:
                to[i] = static_cast<float>(static_cast<int8_t>(tile[k / 4 * 32 + r * 4 + k % 4])) * half(256);
                break;
            default: {
                const uint8_t byte = tile[k % 16 / 4 * 32 + r * 4 + k % 4];
                const float code = static_cast<float>(k < 16 ? byte & 15 : byte >> 4);
                to[i] = embedding.scheme == Scheme::int4 ? code * half(128) + half(144) : (code - 8.0f) * half(128);
            }
            }
        }
    }
}

void ml_context::head(const Matrix &head, const float *norm, float eps, const float *hidden, uint32_t rows,
                      float *logits) {
    const Activations a = private_[0].rows(rows, head.cols);
    pool.run([&](uint32_t thread) {
        const Range own = share(rows, thread, pool.size());
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
        pool.barrier();
        const Range groups = share(head.row_groups, thread, pool.size());
        kernels.multiply(head, static_cast<uint32_t>(groups.begin), static_cast<uint32_t>(groups.end), a, rows, logits,
                         head.rows, false);
    });
}

void ml_context::rotary_table(const Block &block, uint32_t position, uint32_t tokens) {
    if (rotary_theta_ == block.theta && rotary_dim_ == block.head_dim && rotary_position_ == position &&
        rotary_tokens_ == tokens)
        return;
    const uint32_t half = block.head_dim / 2;
    rotary_tokens_ = 0; // what follows may fail, and the table is lost then
    float *table = rotary_.at_least(size_t{tokens} * block.head_dim);
    for (uint32_t i = 0; i < half; i++) {
        // The float32 arithmetic of the reference: 1 / theta^(2i / d), then times the position.
        const float exponent = static_cast<float>(2 * i) / static_cast<float>(block.head_dim);
        const float inverse = 1.0f / std::pow(block.theta, exponent);
        for (uint32_t t = 0; t < tokens; t++) {
            const float angle = static_cast<float>(position + t) * inverse;
            table[size_t{t} * block.head_dim + i] = std::cos(angle);
            table[size_t{t} * block.head_dim + half + i] = std::sin(angle);
        }
    }
    rotary_theta_ = block.theta;
    rotary_dim_ = block.head_dim;
    rotary_position_ = position;
    rotary_tokens_ = tokens;
}

void ml_context::loop(const ml_loop_args &args) {
    require(args.num_blocks >= 1 && args.blocks, "a loop call has no blocks");
    require(args.loops >= 1, "loops is 0, and a stage runs at least once");
    require(args.tokens >= 1 && args.hidden_in && args.hidden_out, "a loop call has no hidden states");
    require(std::isfinite(args.damping) && args.damping > 0 && args.damping <= 1, "the damping is outside (0, 1]");
    require(args.kv_type == ML_KV_F16 || args.kv_type == ML_KV_F32, "the KV type is neither float16 nor float32");
    require(args.key_cache && args.value_cache, "a loop call has no KV cache");
    std::vector<Block> blocks(args.num_blocks);
    for (uint32_t b = 0; b < args.num_blocks; b++) {
        blocks[b] = parse_block(args.blocks[b]);
        const Block &first = blocks[0], &block = blocks[b];
        require(block.hidden == args.hidden_size, "a block has hidden size ", block.hidden, ", the hidden states ",
                args.hidden_size);
        require(block.heads == first.heads && block.kv_heads == first.kv_heads && block.head_dim == first.head_dim &&
                    block.intermediate == first.intermediate && block.theta == first.theta,
                "the blocks of a stage differ in their dimensions");
    }
    const Block &first = blocks[0];
    require(uint64_t{args.position} + args.tokens <= args.capacity, "position ", args.position, " plus ", args.tokens,
            " tokens is beyond the KV capacity of ", args.capacity);
    require(uint64_t{args.loops} * args.num_blocks <= args.num_slots, args.loops, " loops of ", args.num_blocks,
            " blocks need more than the ", args.num_slots, " KV slots given");
    const uint64_t needed =
        product({args.num_slots, first.kv_heads, args.capacity, first.head_dim, args.kv_type == ML_KV_F16 ? 2u : 4u});
    require(args.cache_bytes >= needed, "the KV cache holds ", args.cache_bytes, " bytes where ", needed,
            " are needed");

    rotary_table(first, args.position, args.tokens);
    const size_t tokens = args.tokens, hidden_size = args.hidden_size, total = tokens * hidden_size;
    const size_t query_size = size_t{first.heads} * first.head_dim, kv_size = size_t{first.kv_heads} * first.head_dim;
    query_.at_least(tokens * query_size);
    key_.at_least(tokens * kv_size);
    value_.at_least(tokens * kv_size);
    attended_.at_least(tokens * query_size);
    gate_.at_least(tokens * first.intermediate);
    up_.at_least(tokens * first.intermediate);
    float *entered = args.damping != 1.0f ? entered_.at_least(total) : nullptr;
    const size_t widest = std::max({hidden_size, query_size, size_t{first.intermediate}});
    for (uint32_t thread = 0; thread < (tokens > 1 ? 1 : pool.size()); thread++) private_[thread].rows(tokens, widest);
    for (Scratch<float> &scores : scores_) scores.at_least(args.position + tokens + 8);

    if (args.hidden_out != args.hidden_in) std::copy(args.hidden_in, args.hidden_in + total, args.hidden_out);
    const Stage stage{args, args.hidden_out, tokens, tokens > 1, pool.size()};
    pool.run([&](uint32_t thread) {
        const Range own = share(total, thread, stage.threads), rows = share(tokens, thread, stage.threads);
        for (uint32_t loop = 0; loop < args.loops; loop++) {
            if (entered) std::copy(stage.hidden + own.begin, stage.hidden + own.end, entered + own.begin);
            if (entered) pool.barrier(); // rows of a block are split otherwise than this copy
            for (uint32_t b = 0; b < args.num_blocks; b++)
                apply_block(stage, blocks[b], loop * args.num_blocks + b, thread);
            if (entered) {
                for (size_t i = own.begin; i < own.end; i++)
                    stage.hidden[i] = std::fma(args.damping, stage.hidden[i] - entered[i], entered[i]);
                pool.barrier();
            }
            if (args.loop_end_norm) {
                for (size_t t = rows.begin; t < rows.end; t++) {
                    float *x = stage.hidden + t * hidden_size;
                    kernels.rms_norm(x, args.loop_end_norm, args.loop_end_norm_eps, hidden_size, x);
                }
                pool.barrier();
            }
        }
    });
    if (args.applied_loops) *args.applied_loops = args.loops;
}

// One application of one block by one thread. Ends with all threads past the last write to the hidden states.
void ml_context::apply_block(const Stage &stage, const Block &block, uint32_t slot, uint32_t thread) {
    const ml_loop_args &args = stage.args;
    const size_t tokens = stage.tokens, hidden_size = block.hidden, head_dim = block.head_dim;
    const size_t query_size = size_t{block.heads} * head_dim, kv_size = size_t{block.kv_heads} * head_dim;
    ActivationScratch &scratch = private_[stage.wide ? 0 : thread];
    float *query = query_.at_least(0), *key = key_.at_least(0), *value = value_.at_least(0);
    float *attended = attended_.at_least(0), *gate = gate_.at_least(0), *up = up_.at_least(0);

    const auto prepare = [&](size_t size, bool integer, const auto &fill) { // the input rows of a projection
        const Activations a = scratch.rows(tokens, size);
        const Range own = stage.wide ? share(tokens, thread, stage.threads) : Range{0, 1};
        for (size_t t = own.begin; t < own.end; t++) {
            fill(t, a.floats + t * a.stride);
            zero_padding(a, t, size);
        }
        if (integer) kernels.quantize(a, own.begin, own.end);
        if (stage.wide) pool.barrier();
        return a;
    };
    const auto normed = [&](const float *scale) {
        return [&, scale](size_t t, float *to) {
            kernels.rms_norm(stage.hidden + t * hidden_size, scale, block.eps, hidden_size, to);
        };
    };
    const auto copied = [&](const float *from, size_t size) {
        return [=](size_t t, float *to) { std::copy(from + t * size, from + (t + 1) * size, to); };
    };
    const auto project = [&](const Matrix &matrix, const Activations &a, float *y, bool accumulate) {
        const Range own = share(matrix.row_groups, thread, stage.threads);
        kernels.multiply(matrix, static_cast<uint32_t>(own.begin), static_cast<uint32_t>(own.end), a, tokens, y,
                         matrix.rows, accumulate);
    };

    Activations a = prepare(hidden_size, block.query.integer() || block.key.integer() || block.value.integer(),
                            normed(block.input_norm));
    project(block.query, a, query, false);
    project(block.key, a, key, false);
    project(block.value, a, value, false);
    pool.barrier();

    // Rotate queries, rotate keys into the slot, store values in the slot.
    const size_t element = args.kv_type == ML_KV_F16 ? 2 : 4, per_head = size_t{args.capacity} * head_dim * element;
    uint8_t *key_slot = static_cast<uint8_t *>(args.key_cache) + size_t{slot} * block.kv_heads * per_head;
    uint8_t *value_slot = static_cast<uint8_t *>(args.value_cache) + size_t{slot} * block.kv_heads * per_head;
    const auto store = [&](uint8_t *to, const float *from) {
        if (args.kv_type == ML_KV_F16) {
            kernels.to_f16(from, reinterpret_cast<uint16_t *>(to), head_dim);
        } else {
            std::memcpy(to, from, head_dim * sizeof(float));
        }
    };
    const float *rotary = rotary_.at_least(0);
    const Range pairs = share(tokens * block.heads, thread, stage.threads);
    for (size_t i = pairs.begin; i < pairs.end; i++) {
        const float *cosines = rotary + i / block.heads * head_dim;
        rotate(query + i * head_dim, cosines, cosines + head_dim / 2, block.head_dim, block.interleaved);
    }
    const Range kv_pairs = share(tokens * block.kv_heads, thread, stage.threads);
    for (size_t i = kv_pairs.begin; i < kv_pairs.end; i++) {
        const size_t t = i / block.kv_heads, head = i % block.kv_heads;
        const float *cosines = rotary + t * head_dim;
        rotate(key + i * head_dim, cosines, cosines + head_dim / 2, block.head_dim, block.interleaved);
        const size_t at = head * per_head + (args.position + t) * head_dim * element;
        store(key_slot + at, key + i * head_dim);
        store(value_slot + at, value + t * kv_size + head * head_dim);
    }
    pool.barrier();

    // Heads before tokens, so that one thread keeps to few KV heads; later tokens are longer, so heads balance better.
    const Range tasks = share(tokens * block.heads, thread, stage.threads);
    for (size_t i = tasks.begin; i < tasks.end; i++) {
        const size_t head = i / tokens, t = i % tokens, kv_head = head / (block.heads / block.kv_heads);
        const AttentionArgs attention{query + t * query_size + head * head_dim,
                                      key_slot + kv_head * per_head,
                                      value_slot + kv_head * per_head,
                                      static_cast<uint32_t>(args.position + t + 1),
                                      block.head_dim,
                                      1.0f / std::sqrt(static_cast<float>(head_dim)),
                                      scores_[thread].at_least(0),
                                      attended + t * query_size + head * head_dim};
        (args.kv_type == ML_KV_F16 ? kernels.attend_f16 : kernels.attend_f32)(attention);
    }
    pool.barrier();

    a = prepare(query_size, block.output.integer(), copied(attended, query_size));
    project(block.output, a, stage.hidden, true);
    pool.barrier();

    a = prepare(hidden_size, block.gate.integer() || block.up.integer(), normed(block.post_attention_norm));
    project(block.gate, a, gate, false);
    project(block.up, a, up, false);
    const Range groups = share(block.gate.row_groups, thread, stage.threads);
    const size_t begin = groups.begin * kTileRows, end = std::min<size_t>(groups.end * kTileRows, block.intermediate);
    for (size_t t = 0; t < tokens && begin < end; t++) {
        const size_t at = t * block.intermediate + begin;
        kernels.silu_multiply(gate + at, up + at, end - begin);
    }
    pool.barrier();

    a = prepare(block.intermediate, block.down.integer(), copied(gate, block.intermediate));
    project(block.down, a, stage.hidden, true);
    pool.barrier();
}
