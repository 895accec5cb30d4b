// The kernels over an abstract vector of 8 floats, `V`, and tile products, `Tiles`. Included once per instruction set.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/attention.h"
#include "kernels/kernels.h"
#include "kernels/vectors.h"

namespace ml {
namespace {

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

template <typename V> void quantize(const Activations &a, size_t begin, size_t end) {
    const size_t groups = a.stride / kGroup;
    for (size_t row = begin; row < end; row++) {
        for (size_t g = 0; g < groups; g++) {
            const size_t at = row * a.stride + g * kGroup;
            V largest = V::all(0);
            for (size_t i = 0; i < kGroup; i += 8) largest = V::max(largest, V::abs(V::load(a.floats + at + i)));
            const float extreme = largest.max_lane(), inverse = extreme > 0 ? 127.0f / extreme : 0.0f;
            V sum = V::all(0); // of whole numbers below 2^24, so exact in any order
            for (size_t i = 0; i < kGroup; i += 8) {
                const V scaled = V::mul(V::load(a.floats + at + i), V::all(inverse)), whole = V::round(scaled);
                const V rest = V::round(V::mul(V::add(scaled, V::mul(whole, V::all(-1.0f))), V::all(kPlane)));
                const V high = clipped(whole), low = clipped(rest);
                high.store_codes(a.high + at + i);
                low.store_codes(a.low + at + i);
                sum = V::add(sum, V::fma(high, V::all(kPlane), low));
            }
            const float scale = extreme / (127.0f * kPlane), total = sum.sum();
            a.scales[row * groups + g] = scale;
            a.offsets[row * groups + g] = scale * total;
            a.eights[row * groups + g] = -8 * static_cast<int32_t>(total);
        }
    }
}

// How far ahead of use the weights are asked for, in bytes: the hardware's own prefetcher stops at each page, and one
// core alone does not keep enough lines in flight (docs/lab-log.md).
constexpr uintptr_t kAhead = 12288;

inline void prefetch_tile(const uint8_t *tile, size_t bytes) {
    for (size_t line = 0; line < bytes; line += 64)
        __builtin_prefetch(reinterpret_cast<const void *>(reinterpret_cast<uintptr_t>(tile) + kAhead + line), 0, 2);
}

// The dot products of one float32 tile with one group of activations.
template <typename V> V dot_float32(const uint8_t *tile, const float *x) {
    const float *w = reinterpret_cast<const float *>(tile);
    V part[4] = {V::all(0), V::all(0), V::all(0), V::all(0)}; // four chains hide the latency
    for (uint32_t k = 0; k < kGroup; k++) part[k % 4] = V::fma(V::load(w + k * 8), V::all(x[k]), part[k % 4]);
    return V::add(V::add(part[0], part[1]), V::add(part[2], part[3]));
}

template <typename V, int R, int N> void fill_zero(V (&sums)[R][N]) {
    for (auto &row : sums)
        for (V &sum : row) sum = V::all(0);
}

// The whole numbers of one part of 32 inputs: out[r][n] = codes of tile r . planes of token n. Inlined by order: left
// to itself GCC keeps the sums in memory, which costs prefill a sixth.
template <typename V, typename Tiles, Scheme S, int R, int N>
[[gnu::always_inline]] inline void dot_part(const uint8_t *const (&codes)[R], const Activations &a, size_t token,
                                            size_t part, V (&out)[R][N]) {
    Planes x[N];
    for (int n = 0; n < N; n++) {
        const size_t at = (token + n) * a.stride + part * kGroup;
        x[n] = {a.high + at, a.low + at, a.eights[at / kGroup]};
    }
    if constexpr (S == Scheme::int8) {
        Tiles::template dot_int8<R, N>(codes, x, out);
    } else {
        Tiles::template dot_int4<S == Scheme::int4_symmetric, R, N>(codes, x, out); // below 2^24, so exact
    }
}

// Adds one weight group's products to sums. A group of 32 adds dot * (scale * x_scale). One of 64 or 128, whose
// activations have a scale per part of 32, adds (sum over its parts of dot * x_scale) * scale: one scale less to
// multiply per part.
template <typename V, typename Tiles, Scheme S, size_t Parts, int R, int N>
[[gnu::always_inline]] inline void add_group(const uint8_t *const (&tiles)[R], const Activations &a, size_t token,
                                             size_t part, V (&sums)[R][N]) {
    constexpr size_t kCodes = Parts * code_bytes(S);
    const size_t groups = a.stride / kGroup;
    V whole[R][N];
    if constexpr (Parts == 1) {
        dot_part<V, Tiles, S, R, N>(tiles, a, token, part, whole);
        for (int r = 0; r < R; r++) {
            const V scale = V::load_half(tiles[r] + kCodes);
            for (int n = 0; n < N; n++) {
                const V x_scale = V::all(a.scales[(token + n) * groups + part]);
                sums[r][n] = V::fma(whole[r][n], V::mul(scale, x_scale), sums[r][n]);
            }
            if constexpr (S == Scheme::int4) {
                const V minimum = V::load_half(tiles[r] + kCodes + 16);
                for (int n = 0; n < N; n++)
                    sums[r][n] = V::fma(minimum, V::all(a.offsets[(token + n) * groups + part]), sums[r][n]);
            }
        }
    } else {
        V dots[R][N];
        fill_zero(dots);
        float offsets[N] = {};
        for (size_t p = 0; p < Parts; p++) {
            const uint8_t *codes[R];
            for (int r = 0; r < R; r++) codes[r] = tiles[r] + p * code_bytes(S);
            dot_part<V, Tiles, S, R, N>(codes, a, token, part + p, whole);
            for (int n = 0; n < N; n++) {
                const size_t at = (token + n) * groups + part + p;
                for (int r = 0; r < R; r++) dots[r][n] = V::fma(whole[r][n], V::all(a.scales[at]), dots[r][n]);
                offsets[n] = p == 0 ? a.offsets[at] : offsets[n] + a.offsets[at];
            }
        }
        for (int r = 0; r < R; r++) {
            const V scale = V::load_half(tiles[r] + kCodes);
            for (int n = 0; n < N; n++) sums[r][n] = V::fma(dots[r][n], scale, sums[r][n]);
            if constexpr (S == Scheme::int4) {
                const V minimum = V::load_half(tiles[r] + kCodes + 16);
                for (int n = 0; n < N; n++) sums[r][n] = V::fma(minimum, V::all(offsets[n]), sums[r][n]);
            }
        }
    }
}

// `R` row groups against `N` tokens: 8 rows at once, one accumulator per row group and token, no horizontal sum.
template <typename V, typename Tiles, Scheme S, uint32_t G, int R, int N>
void multiply_cell(const Matrix &m, uint32_t rg, const Activations &a, size_t token, float *y, size_t y_stride,
                   bool accumulate, Stream *stream) {
    constexpr size_t kBytes = tile_bytes(S, G), kParts = G / kGroup;
    const size_t row_bytes = m.groups * kBytes;
    const uint8_t *tile = m.tiles + rg * row_bytes;
    V sums[R][N];
    fill_zero(sums);
    for (uint32_t g = 0; g < m.groups; g++, tile += kBytes) {
        const uint8_t *tiles[R];
        for (int r = 0; r < R; r++) {
            tiles[r] = tile + static_cast<size_t>(r) * row_bytes;
            if (token == 0) prefetch_tile(tiles[r], kBytes); // later tokens find the tile in cache
        }
        if (N == 1 && stream) stream->advance(R * kBytes);
        if constexpr (S == Scheme::float32) {
            for (int n = 0; n < N; n++)
                for (int r = 0; r < R; r++)
                    sums[r][n] =
                        V::add(sums[r][n], dot_float32<V>(tiles[r], a.floats + (token + n) * a.stride + g * kGroup));
        } else {
            add_group<V, Tiles, S, kParts>(tiles, a, token, g * kParts, sums);
        }
    }
#pragma GCC unroll 2 // with an index that is known, the sums need no memory
    for (int r = 0; r < R; r++) {
        const size_t row = (size_t{rg} + static_cast<size_t>(r)) * kTileRows;
        const size_t valid = std::min<size_t>(kTileRows, m.rows - row);
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) {
            float *to = y + (token + n) * y_stride + row;
            store_some(to, accumulate ? V::add(load_some<V>(to, valid), sums[r][n]) : sums[r][n], valid);
        }
    }
}

template <typename V, typename Tiles, Scheme S, uint32_t G, int R>
void multiply_rows(const Matrix &m, uint32_t rg, const Activations &a, size_t tokens, float *y, size_t y_stride,
                   bool accumulate, Stream *stream) {
    constexpr int N = Tiles::kTokens;
    size_t token = 0;
    for (; token + N <= tokens; token += N)
        multiply_cell<V, Tiles, S, G, R, N>(m, rg, a, token, y, y_stride, accumulate, stream);
    for (; token < tokens; token++)
        multiply_cell<V, Tiles, S, G, R, 1>(m, rg, a, token, y, y_stride, accumulate, stream);
}

template <typename V, typename Tiles, Scheme S, uint32_t G>
void multiply_scheme(const Matrix &m, uint32_t begin, uint32_t end, const Activations &a, size_t tokens, float *y,
                     size_t y_stride, bool accumulate, Stream *stream) {
    uint32_t rg = begin;
    for (; rg + 2 <= end; rg += 2) multiply_rows<V, Tiles, S, G, 2>(m, rg, a, tokens, y, y_stride, accumulate, stream);
    if (rg < end) multiply_rows<V, Tiles, S, G, 1>(m, rg, a, tokens, y, y_stride, accumulate, stream);
}

template <typename V, typename Tiles, uint32_t G>
void multiply_quantized(const Matrix &m, uint32_t begin, uint32_t end, const Activations &a, size_t tokens, float *y,
                        size_t y_stride, bool accumulate, Stream *stream) {
    switch (m.scheme) {
    case Scheme::int4_symmetric:
        return multiply_scheme<V, Tiles, Scheme::int4_symmetric, G>(m, begin, end, a, tokens, y, y_stride, accumulate,
                                                                    stream);
    case Scheme::int4:
        return multiply_scheme<V, Tiles, Scheme::int4, G>(m, begin, end, a, tokens, y, y_stride, accumulate, stream);
    case Scheme::int8:
        return multiply_scheme<V, Tiles, Scheme::int8, G>(m, begin, end, a, tokens, y, y_stride, accumulate, stream);
    default: return;
    }
}

template <typename V, typename Tiles>
void multiply(const Matrix &m, uint32_t begin, uint32_t end, const Activations &a, size_t tokens, float *y,
              size_t y_stride, bool accumulate, Stream *stream) {
    if (m.scheme == Scheme::float32)
        return multiply_scheme<V, Tiles, Scheme::float32, kGroup>(m, begin, end, a, tokens, y, y_stride, accumulate,
                                                                  stream);
    switch (m.group) {
    case 64: return multiply_quantized<V, Tiles, 64>(m, begin, end, a, tokens, y, y_stride, accumulate, stream);
    case 128: return multiply_quantized<V, Tiles, 128>(m, begin, end, a, tokens, y, y_stride, accumulate, stream);
    default: return multiply_quantized<V, Tiles, kGroup>(m, begin, end, a, tokens, y, y_stride, accumulate, stream);
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

// V::touch loads 32 bytes into registers and leaves them there. A sum instead would
// be bound by its additions: 69 GB/s from L1 where the loads alone are 290 (docs/lab-log.md).
template <typename V, size_t... Steps> void touch_step(const uint8_t *data, std::index_sequence<Steps...>) {
    (V::touch(data + 32 * Steps), ...);
}

template <typename V> void read_all(const void *data, size_t bytes) {
    const uint8_t *const from = static_cast<const uint8_t *>(data);
    for (size_t i = 0; i < bytes; i += kReadStep) touch_step<V>(from + i, std::make_index_sequence<kReadStep / 32>());
}

template <typename V, typename Tiles>
constexpr Kernels make_kernels(const char *name, void (*store_halves)(const float *, size_t, uint8_t *)) {
    return Kernels{name,
                   rms_norm<V>,
                   quantize<V>,
                   multiply<V, Tiles>,
                   silu_multiply<V>,
                   {attend<V, FloatPart<V>>, store_floats},
                   {attend<V, HalfPart<V>>, store_halves},
                   {attend<V, BytePart<V>>, store_bytes<V>},
                   read_all<V>};
}

} // namespace
} // namespace ml
