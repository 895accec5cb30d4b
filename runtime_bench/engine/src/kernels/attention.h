// Softmax attention in one pass over a KV cache, and the forms in which a cache holds keys and values.
//
// Positions are taken in blocks of 32: their scores, then one step of the running softmax (Milakov and Gimelshein,
// arXiv 1805.02867), then their values, so that the scores of a whole sequence are never in memory. What a query head
// gets depends on its own keys alone, never on the heads that share the pass: a sum over dimensions is 8 lanes, each a
// chain of fused multiply-adds in ascending order, folded by V::sums; a value is a chain over ascending positions.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/kernels.h"
#include "kernels/vectors.h"

namespace ml {
namespace {

constexpr size_t kPart = 32;    // dimensions loaded at a time; a group of an 8-bit cache
constexpr uint32_t kBlock = 32; // positions per step of the softmax
constexpr uint32_t kHeads = 8;  // query heads per pass over the keys
constexpr uint32_t kAtOnce = 3; // query heads whose sums fit the registers beside a key

// A part of a cached vector: up to 32 dimensions from `at` on.
template <typename V> struct FloatPart {
    static constexpr ml_kv_type kType = ML_KV_F32;
    const float *x;
    FloatPart(const uint8_t *vector, size_t, size_t at) : x(reinterpret_cast<const float *>(vector) + at) {}
    V load(size_t i) const { return V::load(x + i); }
    V load_some(size_t i, size_t valid) const { return ml::load_some<V>(x + i, valid); }
};

template <typename V> struct HalfPart {
    static constexpr ml_kv_type kType = ML_KV_F16;
    const uint8_t *x;
    HalfPart(const uint8_t *vector, size_t, size_t at) : x(vector + 2 * at) {}
    V load(size_t i) const { return V::load_half(x + 2 * i); }
    V load_some(size_t i, size_t valid) const {
        uint8_t padded[16] = {};
        std::memcpy(padded, x + 2 * i, 2 * valid);
        return V::load_half(padded);
    }
};

template <typename V> struct BytePart {
    static constexpr ml_kv_type kType = ML_KV_I8;
    const uint8_t *codes;
    V scale;
    BytePart(const uint8_t *vector, size_t head_dim, size_t at)
        : codes(vector + at), scale(V::all_half(vector + head_dim + at / kPart * 2)) {}
    V load(size_t i) const { return V::mul(V::load_codes(codes + i), scale); }
    V load_some(size_t i, size_t valid) const {
        uint8_t padded[8] = {};
        std::memcpy(padded, codes + i, valid);
        return V::mul(V::load_codes(padded), scale);
    }
};

inline void store_floats(const float *x, size_t size, uint8_t *out) { std::memcpy(out, x, size * sizeof(float)); }

inline void store_halves(const float *x, size_t size, uint8_t *out) {
    for (size_t i = 0; i < size; i++) {
        const uint16_t half = saturated_half(x[i]);
        std::memcpy(out + 2 * i, &half, sizeof half);
    }
}

// A scale beyond float16 is clipped, and so is a code; what is not a number becomes one.
template <typename V> void store_bytes(const float *x, size_t size, uint8_t *out) {
    for (size_t at = 0; at < size; at += kPart) {
        const size_t part = std::min(kPart, size - at);
        V largest = V::all(0);
        for_steps(part,
                  [&](size_t i, size_t valid) { largest = V::max(largest, V::abs(load_some<V>(x + at + i, valid))); });
        const uint16_t scale = saturated_half(largest.max_lane() / 127.0f);
        std::memcpy(out + size + at / kPart * 2, &scale, sizeof scale);
        const float inverse = scale ? 1.0f / half_to_float(scale) : 0.0f;
        for_steps(part, [&](size_t i, size_t valid) {
            int8_t codes[8];
            clipped(V::round(V::mul(load_some<V>(x + at + i, valid), V::all(inverse)))).store_codes(codes);
            std::memcpy(out + at + i, codes, valid);
        });
    }
}

// scores[h][t] = scale * query h . key t for `count` positions; rounded up to 8, with zeros behind.
template <typename V, typename Part, uint32_t H>
void score(const AttentionArgs &a, const float *query, const uint8_t *keys, uint32_t count, float (*scores)[kBlock]) {
    const size_t dim = a.head_dim, bytes = kv_vector_bytes(Part::kType, dim);
    for (uint32_t begin = 0; begin < count; begin += 8) {
        V dots[H][8];
        for (uint32_t t = 0; t < 8; t++) {
            V sums[H];
            for (V &sum : sums) sum = V::all(0);
            if (begin + t < count) {
                const uint8_t *key = keys + (begin + t) * bytes;
                size_t at = 0;
                for (; at + kPart <= dim; at += kPart) {
                    const Part part(key, dim, at);
                    for (size_t i = 0; i < kPart; i += 8) {
                        const V lanes = part.load(i);
                        for (uint32_t h = 0; h < H; h++)
                            sums[h] = V::fma(V::load(query + h * dim + at + i), lanes, sums[h]);
                    }
                }
                if (at < dim) {
                    const Part part(key, dim, at);
                    for_steps(dim - at, [&](size_t i, size_t valid) {
                        const V lanes = part.load_some(i, valid);
                        for (uint32_t h = 0; h < H; h++)
                            sums[h] = V::fma(load_some<V>(query + h * dim + at + i, valid), lanes, sums[h]);
                    });
                }
            }
            for (uint32_t h = 0; h < H; h++) dots[h][t] = sums[h];
        }
        for (uint32_t h = 0; h < H; h++) V::mul(V::sums(dots[h]), V::all(a.scale)).store(scores[h] + begin);
    }
}

// out[h] = out[h] * factors[h] + sum over t of weights[h][t] * value t
template <typename V, typename Part, uint32_t H>
void mix(const AttentionArgs &a, const uint8_t *values, uint32_t count, const float (*weights)[kBlock],
         const float *factors, float *out) {
    const size_t dim = a.head_dim, bytes = kv_vector_bytes(Part::kType, dim);
    size_t at = 0;
    for (; at + kPart <= dim; at += kPart) {
        V sums[H][kPart / 8];
        for (uint32_t h = 0; h < H; h++)
            for (size_t i = 0; i < kPart; i += 8)
                sums[h][i / 8] = V::mul(V::load(out + h * dim + at + i), V::all(factors[h]));
        for (uint32_t t = 0; t < count; t++) {
            const Part part(values + t * bytes, dim, at);
            V weight[H];
            for (uint32_t h = 0; h < H; h++) weight[h] = V::all(weights[h][t]);
            for (size_t i = 0; i < kPart; i += 8) {
                const V lanes = part.load(i);
                for (uint32_t h = 0; h < H; h++) sums[h][i / 8] = V::fma(weight[h], lanes, sums[h][i / 8]);
            }
        }
        for (uint32_t h = 0; h < H; h++)
            for (size_t i = 0; i < kPart; i += 8) sums[h][i / 8].store(out + h * dim + at + i);
    }
    for_steps(dim - at, [&](size_t i, size_t valid) {
        for (uint32_t h = 0; h < H; h++) {
            float *to = out + h * dim + at + i;
            V sum = V::mul(load_some<V>(to, valid), V::all(factors[h]));
            for (uint32_t t = 0; t < count; t++)
                sum = V::fma(V::all(weights[h][t]), Part(values + t * bytes, dim, at).load_some(i, valid), sum);
            store_some(to, sum, valid);
        }
    });
}

// One step of the running softmax of a head: scores become weights against the largest score so far. Returns what the
// sums of earlier blocks are to be multiplied with, before its exponential.
template <typename V> float soften(float *scores, uint32_t count, float &largest, V &block_total) {
    const float before = largest;
    V highest = V::all(-INFINITY);
    std::fill(scores + count, scores + (count + 7) / 8 * 8, -INFINITY);
    for (uint32_t t = 0; t < count; t += 8) highest = V::max(highest, V::load(scores + t));
    largest = std::max(largest, highest.max_lane());
    block_total = V::all(0);
    for (uint32_t t = 0; t < count; t += 8) {
        exponential<V>(V::add(V::load(scores + t), V::all(-largest))).store(scores + t);
        if (t + 8 > count) std::fill(scores + count, scores + t + 8, 0.0f);
        block_total = V::add(block_total, V::load(scores + t));
    }
    return before - largest;
}

// Calls body(number of heads as a constant, first head) until `heads` are done, two or three at a time where it can.
template <typename Body> void for_heads(uint32_t heads, const Body &body) {
    for (uint32_t h = 0; h < heads;) {
        const uint32_t left = heads - h, step = left == kAtOnce + 1 ? 2 : std::min(left, kAtOnce);
        if (step == 3) {
            body(std::integral_constant<uint32_t, 3>{}, h);
        } else if (step == 2) {
            body(std::integral_constant<uint32_t, 2>{}, h);
        } else {
            body(std::integral_constant<uint32_t, 1>{}, h);
        }
        h += step;
    }
}

template <typename V, typename Part>
void attend_heads(const AttentionArgs &a, const float *query, uint32_t heads, float *out) {
    const size_t dim = a.head_dim, bytes = kv_vector_bytes(Part::kType, dim);
    const auto *keys = static_cast<const uint8_t *>(a.keys), *values = static_cast<const uint8_t *>(a.values);
    float scores[kHeads][kBlock], largest[kHeads], factors[kHeads] = {};
    V totals[kHeads], block_totals[kHeads];
    std::fill(largest, largest + heads, -INFINITY);
    std::fill(totals, totals + heads, V::all(0));
    std::fill(out, out + heads * dim, 0.0f);
    for (uint32_t begin = 0; begin < a.length; begin += kBlock) {
        const uint32_t count = std::min(kBlock, a.length - begin);
        for_heads(heads, [&](auto step, uint32_t h) {
            score<V, Part, step>(a, query + h * dim, keys + begin * bytes, count, scores + h);
        });
        for (uint32_t h = 0; h < heads; h++) factors[h] = soften<V>(scores[h], count, largest[h], block_totals[h]);
        exponential<V>(V::load(factors)).store(factors);
        for (uint32_t h = 0; h < heads; h++) totals[h] = V::fma(totals[h], V::all(factors[h]), block_totals[h]);
        for_heads(heads, [&](auto step, uint32_t h) {
            mix<V, Part, step>(a, values + begin * bytes, count, scores + h, factors + h, out + h * dim);
        });
    }
    for (uint32_t h = 0; h < heads; h++) {
        const V inverse = V::all(1.0f / totals[h].sum());
        for_steps(dim, [&](size_t i, size_t valid) {
            float *to = out + h * dim + i;
            store_some(to, V::mul(load_some<V>(to, valid), inverse), valid);
        });
    }
}

template <typename V, typename Part> void attend(const AttentionArgs &a) {
    for (uint32_t h = 0; h < a.heads; h += kHeads)
        attend_heads<V, Part>(a, a.query + size_t{h} * a.head_dim, std::min(kHeads, a.heads - h),
                              a.out + size_t{h} * a.head_dim);
}

} // namespace
} // namespace ml
