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
    a.offsets = offsets.at_least(tokens * a.stride / kGroup);
    a.eights = eights.at_least(tokens * a.stride / kGroup);
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

ml_context::ml_context(uint32_t threads) : pool(threads), kernels(current_kernels()), private_(pool.size()) {}

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

namespace {

// The blocks of a call, in which everything that the call says agrees with everything else.
std::vector<Block> checked_blocks(const ml_loop_args &args) {
    require(args.num_blocks >= 1 && args.blocks, "a loop call has no blocks");
    require(args.loops >= 1, "loops is 0, and a stage runs at least once");
    require(args.tokens >= 1 && args.hidden_in && args.hidden_out, "a loop call has no hidden states");
    require(std::isfinite(args.damping) && args.damping > 0 && args.damping <= 1, "the damping is outside (0, 1]");
    require(args.kv_type == ML_KV_F32 || args.kv_type == ML_KV_F16 || args.kv_type == ML_KV_I8,
            "the KV type is none of float32, float16 and int8");
    require(args.full_attention <= 1, "full_attention is ", args.full_attention, ", neither 0 nor 1");
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
        product({args.num_slots, first.kv_heads, args.capacity, kv_vector_bytes(args.kv_type, first.head_dim)});
    require(args.cache_bytes >= needed, "the KV cache holds ", args.cache_bytes, " bytes where ", needed,
            " are needed");
    return blocks;
}

} // namespace

// One thread's part in one application of one block.
class ml_context::Application {
public:
    Application(ml_context &context, const Stage &stage, const Block &block, uint32_t slot, uint32_t thread)
        : context_(context), kernels_(context.kernels), stage_(stage), args_(stage.args), block_(block), slot_(slot),
          thread_(thread), head_dim_(block.head_dim), query_size_(size_t{block.heads} * head_dim_),
          vector_(kv_vector_bytes(args_.kv_type, head_dim_)), per_head_(args_.capacity * vector_) {}

    // Ends with all threads past the last write to the hidden states.
    void run() {
        float *query = context_.query_.at_least(0), *attended = context_.attended_.at_least(0);
        float *key = context_.key_.at_least(0), *value = context_.value_.at_least(0);
        Activations a =
            normed(block_.input_norm, block_.query.integer() || block_.key.integer() || block_.value.integer());
        project(block_.query, a, query, false);
        project(block_.key, a, key, false);
        project(block_.value, a, value, false);
        context_.pool.barrier();
        rotate_and_store(query, key, value);
        context_.pool.barrier();
        attend(query, attended);
        context_.pool.barrier();
        a = copied(attended, query_size_, block_.output.integer());
        project(block_.output, a, stage_.hidden, true);
        context_.pool.barrier();
        feed_forward();
    }

private:
    Range own(size_t total) const { return share(total, thread_, stage_.threads); }

    // The input rows of a projection; fill(t, to) writes one of them.
    template <typename Fill> Activations prepare(size_t size, bool integer, const Fill &fill) {
        const Activations a = context_.private_[stage_.wide ? 0 : thread_].rows(stage_.tokens, size);
        const Range rows = stage_.wide ? own(stage_.tokens) : Range{0, 1};
        for (size_t t = rows.begin; t < rows.end; t++) {
            fill(t, a.floats + t * a.stride);
            zero_padding(a, t, size);
        }
        if (integer) kernels_.quantize(a, rows.begin, rows.end);
        if (stage_.wide) context_.pool.barrier();
        return a;
    }
    Activations normed(const float *scale, bool integer) {
        return prepare(block_.hidden, integer, [&](size_t t, float *to) {
            kernels_.rms_norm(stage_.hidden + t * block_.hidden, scale, block_.eps, block_.hidden, to);
        });
    }
    Activations copied(const float *from, size_t size, bool integer) {
        return prepare(size, integer,
                       [&](size_t t, float *to) { std::copy(from + t * size, from + (t + 1) * size, to); });
    }
    void project(const Matrix &matrix, const Activations &a, float *y, bool accumulate) const {
        const Range groups = own(matrix.row_groups);
        kernels_.multiply(matrix, static_cast<uint32_t>(groups.begin), static_cast<uint32_t>(groups.end), a,
                          stage_.tokens, y, matrix.rows, accumulate);
    }

    // This application's slot of a cache: [kv_heads, capacity, head_dim].
    uint8_t *slot_of(void *cache) const {
        return static_cast<uint8_t *>(cache) + size_t{slot_} * block_.kv_heads * per_head_;
    }
    // Rotate queries, rotate keys into the slot, store values in the slot.
    void rotate_and_store(float *query, float *key, const float *value) {
        const float *rotary = context_.rotary_.at_least(0);
        const Range pairs = own(stage_.tokens * block_.heads);
        for (size_t i = pairs.begin; i < pairs.end; i++) {
            const float *cosines = rotary + i / block_.heads * head_dim_;
            rotate(query + i * head_dim_, cosines, cosines + head_dim_ / 2, block_.head_dim, block_.interleaved);
        }
        uint8_t *key_slot = slot_of(args_.key_cache), *value_slot = slot_of(args_.value_cache);
        const KvKernels &kv = kernels_.kv(args_.kv_type);
        const Range kv_pairs = own(stage_.tokens * block_.kv_heads);
        for (size_t i = kv_pairs.begin; i < kv_pairs.end; i++) {
            const size_t t = i / block_.kv_heads, head = i % block_.kv_heads;
            const float *cosines = rotary + t * head_dim_;
            rotate(key + i * head_dim_, cosines, cosines + head_dim_ / 2, block_.head_dim, block_.interleaved);
            const size_t at = head * per_head_ + (args_.position + t) * vector_;
            kv.store(key + i * head_dim_, head_dim_, key_slot + at);
            kv.store(value + i * head_dim_, head_dim_, value_slot + at);
        }
    }

    // A thread owns a run of query heads, KV heads before tokens, and those that share a key take it together. Several
    // tokens are dealt out in turn instead: later ones attend to more.
    void attend(const float *query, float *attended) const {
        const size_t group = block_.heads / block_.kv_heads;
        if (stage_.wide) {
            for (size_t i = thread_; i < stage_.tokens * block_.kv_heads; i += stage_.threads)
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
    // `count` query heads of token t, all of one KV head.
    void attend_heads(const float *query, float *attended, size_t t, size_t head, size_t count) const {
        const size_t at = t * query_size_ + head * head_dim_;
        const size_t keys = head / (block_.heads / block_.kv_heads) * per_head_;
        const size_t seen = args_.full_attention ? stage_.tokens : t + 1;
        kernels_.kv(args_.kv_type)
            .attend({query + at, slot_of(args_.key_cache) + keys, slot_of(args_.value_cache) + keys,
                     static_cast<uint32_t>(args_.position + seen), block_.head_dim, static_cast<uint32_t>(count),
                     1.0f / std::sqrt(static_cast<float>(head_dim_)), attended + at});
    }

    void feed_forward() {
        float *gate = context_.gate_.at_least(0), *up = context_.up_.at_least(0);
        const size_t size = block_.intermediate;
        Activations a = normed(block_.post_attention_norm, block_.gate.integer() || block_.up.integer());
        project(block_.gate, a, gate, false);
        project(block_.up, a, up, false);
        const Range groups = own(block_.gate.row_groups);
        const size_t begin = groups.begin * kTileRows, end = std::min<size_t>(groups.end * kTileRows, size);
        for (size_t t = 0; t < stage_.tokens && begin < end; t++)
            kernels_.silu_multiply(gate + t * size + begin, up + t * size + begin, end - begin);
        context_.pool.barrier();
        a = copied(gate, size, block_.down.integer());
        project(block_.down, a, stage_.hidden, true);
        context_.pool.barrier();
    }

    ml_context &context_;
    const Kernels &kernels_;
    const Stage &stage_;
    const ml_loop_args &args_;
    const Block &block_;
    const uint32_t slot_, thread_;
    const size_t head_dim_, query_size_;
    const size_t vector_, per_head_; // bytes of one cached vector, and of one KV head's part of a slot
};

// Scratch for one call: nothing is allocated once the threads run.
void ml_context::reserve(const ml_loop_args &args, const Block &block) {
    const size_t tokens = args.tokens;
    const size_t query_size = size_t{block.heads} * block.head_dim, kv_size = size_t{block.kv_heads} * block.head_dim;
    query_.at_least(tokens * query_size);
    key_.at_least(tokens * kv_size);
    value_.at_least(tokens * kv_size);
    attended_.at_least(tokens * query_size);
    gate_.at_least(tokens * block.intermediate);
    up_.at_least(tokens * block.intermediate);
    if (args.damping != 1.0f) entered_.at_least(tokens * block.hidden);
    const size_t widest = std::max({size_t{block.hidden}, query_size, size_t{block.intermediate}});
    for (uint32_t thread = 0; thread < (tokens > 1 ? 1 : pool.size()); thread++) private_[thread].rows(tokens, widest);
}

void ml_context::loop(const ml_loop_args &args) {
    const std::vector<Block> blocks = checked_blocks(args);
    rotary_table(blocks[0], args.position, args.tokens);
    reserve(args, blocks[0]);
    const size_t tokens = args.tokens, hidden_size = args.hidden_size, total = tokens * hidden_size;
    float *entered = args.damping != 1.0f ? entered_.at_least(0) : nullptr;
    if (args.hidden_out != args.hidden_in) std::copy(args.hidden_in, args.hidden_in + total, args.hidden_out);
    const Stage stage{args, args.hidden_out, tokens, tokens > 1, pool.size()};
    pool.run([&](uint32_t thread) {
        const Range own = share(total, thread, stage.threads), rows = share(tokens, thread, stage.threads);
        for (uint32_t loop = 0; loop < args.loops; loop++) {
            if (entered) std::copy(stage.hidden + own.begin, stage.hidden + own.end, entered + own.begin);
            if (entered) pool.barrier(); // rows of a block are split otherwise than this copy
            for (uint32_t b = 0; b < args.num_blocks; b++)
                Application(*this, stage, blocks[b], loop * args.num_blocks + b, thread).run();
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
