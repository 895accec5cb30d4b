// A vector of 8 floats in one AVX register, with the operations and the orders of the scalar one.
#pragma once

#include <immintrin.h>

#include "kernels/kernels_impl.h"

namespace ml {
namespace {

struct Avx8 {
    __m256 v;

    static Avx8 all(float x) { return {_mm256_set1_ps(x)}; }
    static Avx8 load(const float *x) { return {_mm256_loadu_ps(x)}; }
    static void touch(const uint8_t *x) {
        asm volatile("" ::"x"(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(x))));
    }
    static Avx8 load_half(const void *x) { return {_mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i *>(x)))}; }
    static Avx8 load_codes(const uint8_t *x) {
        return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(x))))};
    }
    static Avx8 all_half(const void *x) {
        int16_t half;
        std::memcpy(&half, x, sizeof half);
        return {_mm256_cvtph_ps(_mm_set1_epi16(half))};
    }
    void store(float *out) const { _mm256_storeu_ps(out, v); }
    void store_codes(int8_t *out) const { // whole numbers within -127..127
        const __m256i wide = _mm256_cvtps_epi32(v);
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i *>(out), _mm_packs_epi16(words, words));
    }
    static Avx8 add(Avx8 a, Avx8 b) { return {_mm256_add_ps(a.v, b.v)}; }
    static Avx8 mul(Avx8 a, Avx8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
    static Avx8 div(Avx8 a, Avx8 b) { return {_mm256_div_ps(a.v, b.v)}; }
    static Avx8 fma(Avx8 a, Avx8 b, Avx8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
    static Avx8 max(Avx8 a, Avx8 b) { return {_mm256_max_ps(a.v, b.v)}; }
    static Avx8 min(Avx8 a, Avx8 b) { return {_mm256_min_ps(a.v, b.v)}; }
    static Avx8 abs(Avx8 a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
    static Avx8 round(Avx8 a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
    static Avx8 power_of_two(Avx8 n) {
        const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
        return {_mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23))};
    }
    float sum() const {
        __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        s = _mm_add_ps(s, _mm_movehl_ps(s, s));
        return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
    }
    // Lane i is the sum of x[i], in the order of pairwise additions.
    static Avx8 sums(const Avx8 *x) {
        const __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(x[0].v, x[1].v), _mm256_hadd_ps(x[2].v, x[3].v));
        const __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(x[4].v, x[5].v), _mm256_hadd_ps(x[6].v, x[7].v));
        return {_mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31))};
    }
    float max_lane() const {
        __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        m = _mm_max_ps(m, _mm_movehl_ps(m, m));
        return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
    }
};

inline __m256i load32(const uint8_t *x) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(x)); }

inline __m256i broadcast4(const int8_t *x) {
    int32_t four;
    std::memcpy(&four, x, sizeof four);
    return _mm256_set1_epi32(four);
}

inline void avx_store_halves(const float *x, size_t size, uint8_t *out) {
    size_t i = 0;
    for (; i + 8 <= size; i += 8)
        _mm_storeu_si128(
            reinterpret_cast<__m128i *>(out + 2 * i),
            _mm256_cvtps_ph(saturated(Avx8::load(x + i)).v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    store_halves(x + i, size - i, out + 2 * i);
}

} // namespace
} // namespace ml
