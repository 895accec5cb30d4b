// The kernels over an abstract vector of 8 floats, `V`, and tile products, `Tiles`. Included once per instruction set.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels.h"

namespace ml {
namespace {

// 1/2^k style Cephes exponential: |relative error| < 2e-7 over the range used here; the same operations in every set.
template <typename V> V exponential(V x) {
    x = V::max(V::min(x, V::all(88.0f)), V::all(-87.0f));
    const V n = V::round(V::mul(x, V::all(1.44269504088896341f)));
    V r = V::fma(n, V::all(-0.693359375f), x);
    r = V::fma(n, V::all(2.12194440e-4f), r);
    V p = V::all(1.9875691500e-4f);
    p = V::fma(p, r, V::all(1.3981999507e-3f));
    p = V::fma(p, r, V::all(8.3334519073e-3f));
    p = V::fma(p, r, V::all(4.1665795894e-2f));
    p = V::fma(p, r, V::all(1.6666665459e-1f));
    p = V::fma(p, r, V::all(5.0000001201e-1f));
    p = V::fma(p, V::mul(r, r), V::add(r, V::all(1.0f)));
    return V::mul(p, V::power_of_two(n));
}

// Calls body(offset, valid) over 8-float steps; the last step may be partial.
template <typename Body> void for_steps(size_t size, const Body &body) {
    size_t i = 0;
    for (; i + 8 <= size; i += 8) body(i, size_t{8});
    if (i < size) body(i, size - i);
}

template <typename V> V load_some(const float *x, size_t valid) {
    if (valid == 8) return V::load(x);
    float padded[8] = {};
    std::memcpy(padded, x, valid * sizeof(float));
    return V::load(padded);
}

template <typename V> void store_some(float *out, V value, size_t valid) {
    if (valid == 8) return value.store(out);
    float padded[8];
    value.store(padded);
    std::memcpy(out, padded, valid * sizeof(float));
}

template <typename V> void rms_norm(const float *x, const float *scale, float eps, size_t size, float *out) {
    V sum = V::all(0);
    for_steps(size, [&](size_t i, size_t valid) {
        const V v = load_some<V>(x + i, valid);
        sum = V::fma(v, v, sum);
    });
    const float inverse = 1.0f / std::sqrt(sum.sum() / static_cast<float>(size) + eps);
    for_steps(size, [&](size_t i, size_t valid) {
        const V v = V::mul(V::mul(load_some<V>(x + i, valid), V::all(inverse)), load_some<V>(scale + i, valid));
        store_some(out + i, v, valid);
    });
}

// To the range of float16. The value comes second, so that one that is not a number stays so.
template <typename V> V saturated(V x) { return V::max(V::all(-kLargestHalf), V::min(V::all(kLargestHalf), x)); }

inline uint16_t saturated_half(float x) {
    return float_to_half(x > kLargestHalf ? kLargestHalf : x < -kLargestHalf ? -kLargestHalf : x);
}

// Clips to the plane's range; a value that is not a number (a hostile file) must not become an undefined conversion.
inline int32_t to_code(float rounded) {
    return static_cast<int32_t>(rounded >= -127.0f ? (rounded <= 127.0f ? rounded : 127.0f) : -127.0f);
}

template <typename V> void quantize(const Activations &a, size_t begin, size_t end) {
    const size_t groups = a.stride / kGroup;
    for (size_t row = begin; row < end; row++) {
        for (size_t g = 0; g < groups; g++) {
            const float *x = a.floats + row * a.stride + g * kGroup;
            V largest = V::all(0);
            for (size_t i = 0; i < kGroup; i += 8) largest = V::max(largest, V::abs(V::load(x + i)));
            const float extreme = largest.max_lane();
            const float inverse = extreme > 0 ? 127.0f / extreme : 0.0f;
            int8_t *high = a.high + row * a.stride + g * kGroup, *low = a.low + row * a.stride + g * kGroup;
            int32_t high_sum = 0, low_sum = 0;
            for (size_t i = 0; i < kGroup; i += 8) {
                const V scaled = V::mul(V::load(x + i), V::all(inverse)), whole = V::round(scaled);
                const V rest = V::round(V::mul(V::add(scaled, V::mul(whole, V::all(-1.0f))), V::all(kPlane)));
                float high_lanes[8], low_lanes[8];
                whole.store(high_lanes);
                rest.store(low_lanes);
                for (size_t j = 0; j < 8; j++) {
                    const int32_t h = to_code(high_lanes[j]), l = to_code(low_lanes[j]);
                    high[i + j] = static_cast<int8_t>(h);
                    low[i + j] = static_cast<int8_t>(l);
                    high_sum += h;
                    low_sum += l;
                }
            }
            a.scales[row * groups + g] = extreme / (127.0f * kPlane);
            a.sums[row * groups + g] = static_cast<float>(static_cast<int32_t>(kPlane) * high_sum + low_sum);
        }
    }
}

// One row group against `N` tokens: 8 rows at once, one accumulator per token, no horizontal sum.
template <typename V, typename Tiles, Scheme S, int N>
void multiply_group(const Matrix &m, const uint8_t *tile, const Activations &a, size_t token, float *out) {
    const size_t groups = a.stride / kGroup;
    V acc[N];
    for (int n = 0; n < N; n++) acc[n] = V::all(0);
    for (uint32_t g = 0; g < m.groups; g++, tile += tile_bytes(S)) {
        if constexpr (S == Scheme::float32) {
            const float *w = reinterpret_cast<const float *>(tile);
            for (int n = 0; n < N; n++) {
                const float *x = a.floats + (token + n) * a.stride + g * kGroup;
                V part[4] = {V::all(0), V::all(0), V::all(0), V::all(0)}; // four chains hide the latency
                for (uint32_t k = 0; k < kGroup; k++)
                    part[k % 4] = V::fma(V::load(w + k * 8), V::all(x[k]), part[k % 4]);
                acc[n] = V::add(acc[n], V::add(V::add(part[0], part[1]), V::add(part[2], part[3])));
            }
        } else {
            constexpr size_t codes_bytes = S == Scheme::int8 ? 256 : 128;
            const V scale = V::load_half(tile + codes_bytes);
            for (int n = 0; n < N; n++) {
                const size_t at = (token + n) * a.stride + g * kGroup;
                const float x_scale = a.scales[(token + n) * groups + g];
                const float x_sum = a.sums[(token + n) * groups + g];
                V dot;
                if constexpr (S == Scheme::int8) {
                    dot = Tiles::dot_int8(tile, a.high + at, a.low + at);
                } else {
                    dot = Tiles::dot_int4(tile, a.high + at, a.low + at);
                }
                // Below 2^24, so exact: codes are stored around 8.
                if constexpr (S == Scheme::int4_symmetric) dot = V::add(dot, V::all(-8.0f * x_sum));
                acc[n] = V::fma(dot, V::mul(scale, V::all(x_scale)), acc[n]);
                if constexpr (S == Scheme::int4)
                    acc[n] = V::fma(V::load_half(tile + codes_bytes + 16), V::all(x_scale * x_sum), acc[n]);
            }
        }
    }
    for (int n = 0; n < N; n++) acc[n].store(out + 8 * n);
}

template <typename V, typename Tiles, Scheme S, int N>
void multiply_tokens(const Matrix &m, uint32_t rg, const Activations &a, size_t token, float *y, size_t y_stride,
                     bool accumulate) {
    float out[8 * N];
    multiply_group<V, Tiles, S, N>(m, m.tiles + size_t{rg} * m.groups * tile_bytes(S), a, token, out);
    const size_t row = size_t{rg} * kTileRows, valid = std::min<size_t>(kTileRows, m.rows - row);
    for (int n = 0; n < N; n++) {
        float *to = y + (token + n) * y_stride + row;
        for (size_t r = 0; r < valid; r++) to[r] = accumulate ? to[r] + out[8 * n + r] : out[8 * n + r];
    }
}

template <typename V, typename Tiles, Scheme S>
void multiply_scheme(const Matrix &m, uint32_t begin, uint32_t end, const Activations &a, size_t tokens, float *y,
                     size_t y_stride, bool accumulate) {
    for (uint32_t rg = begin; rg < end; rg++) {
        size_t token = 0;
        for (; token + 4 <= tokens; token += 4)
            multiply_tokens<V, Tiles, S, 4>(m, rg, a, token, y, y_stride, accumulate);
        for (; token < tokens; token++) multiply_tokens<V, Tiles, S, 1>(m, rg, a, token, y, y_stride, accumulate);
    }
}

template <typename V, typename Tiles>
void multiply(const Matrix &m, uint32_t begin, uint32_t end, const Activations &a, size_t tokens, float *y,
              size_t y_stride, bool accumulate) {
    switch (m.scheme) {
    case Scheme::float32:
        return multiply_scheme<V, Tiles, Scheme::float32>(m, begin, end, a, tokens, y, y_stride, accumulate);
    case Scheme::int4_symmetric:
        return multiply_scheme<V, Tiles, Scheme::int4_symmetric>(m, begin, end, a, tokens, y, y_stride, accumulate);
    case Scheme::int4:
        return multiply_scheme<V, Tiles, Scheme::int4>(m, begin, end, a, tokens, y, y_stride, accumulate);
    case Scheme::int8:
        return multiply_scheme<V, Tiles, Scheme::int8>(m, begin, end, a, tokens, y, y_stride, accumulate);
    case Scheme::vector: return;
    }
}

template <typename V> void silu_multiply(float *gate, const float *up, size_t size) {
    for_steps(size, [&](size_t i, size_t valid) {
        const V g = load_some<V>(gate + i, valid);
        const V e = exponential<V>(V::mul(g, V::all(-1.0f)));
        const V silu = V::div(g, V::add(e, V::all(1.0f)));
        store_some(gate + i, V::mul(silu, load_some<V>(up + i, valid)), valid);
    });
}

template <typename V> struct FloatRows {
    using Element = float;
    static V load(const float *x, size_t valid) { return load_some<V>(x, valid); }
};

template <typename V> struct HalfRows {
    using Element = uint16_t;
    static V load(const uint16_t *x, size_t valid) {
        if (valid == 8) return V::load_half(x);
        uint16_t padded[8] = {};
        std::memcpy(padded, x, valid * sizeof(uint16_t));
        return V::load_half(padded);
    }
};

// Softmax attention of one query head over the whole length.
template <typename V, typename Rows> void attend(const AttentionArgs &a) {
    using Element = typename Rows::Element;
    const auto *keys = static_cast<const Element *>(a.keys), *values = static_cast<const Element *>(a.values);
    float largest = -INFINITY;
    for (uint32_t t = 0; t < a.length; t++) {
        V sum = V::all(0);
        for_steps(a.head_dim, [&](size_t i, size_t valid) {
            sum = V::fma(load_some<V>(a.query + i, valid), Rows::load(keys + size_t{t} * a.head_dim + i, valid), sum);
        });
        a.scores[t] = sum.sum() * a.scale;
        largest = std::max(largest, a.scores[t]);
    }
    V total = V::all(0);
    for_steps(a.length, [&](size_t i, size_t valid) {
        V e = exponential<V>(V::add(load_some<V>(a.scores + i, valid), V::all(-largest)));
        if (valid < 8) {
            float lanes[8];
            e.store(lanes);
            std::fill(lanes + valid, lanes + 8, 0.0f);
            e = V::load(lanes);
        }
        store_some(a.scores + i, e, valid);
        total = V::add(total, e);
    });
    const float inverse = 1.0f / total.sum();
    for_steps(a.head_dim, [&](size_t i, size_t valid) {
        V sum = V::all(0);
        for (uint32_t t = 0; t < a.length; t++)
            sum = V::fma(V::all(a.scores[t]), Rows::load(values + size_t{t} * a.head_dim + i, valid), sum);
        store_some(a.out + i, V::mul(sum, V::all(inverse)), valid);
    });
}

template <typename V> float read_all(const float *data, size_t size) {
    V sums[8];
    for (V &sum : sums) sum = V::all(0);
    size_t i = 0;
    for (; i + 64 <= size; i += 64)
        for (size_t j = 0; j < 8; j++) sums[j] = V::add(sums[j], V::load(data + i + 8 * j));
    for (size_t j = 1; j < 8; j++) sums[0] = V::add(sums[0], sums[j]);
    return sums[0].sum();
}

template <typename V, typename Tiles>
constexpr Kernels make_kernels(const char *name, void (*to_f16)(const float *, uint16_t *, size_t)) {
    return Kernels{name,
                   rms_norm<V>,
                   quantize<V>,
                   multiply<V, Tiles>,
                   silu_multiply<V>,
                   attend<V, FloatRows<V>>,
                   attend<V, HalfRows<V>>,
                   to_f16,
                   read_all<V>};
}

} // namespace
} // namespace ml
