// AVX2 + FMA + F16C. Compiled with those flags; chosen at run time where the processor has them.
#include <immintrin.h>

#include "kernels_impl.h"

namespace ml {
namespace {

struct Avx8 {
    __m256 v;

    static Avx8 all(float x) { return {_mm256_set1_ps(x)}; }
    static Avx8 load(const float *x) { return {_mm256_loadu_ps(x)}; }
    static Avx8 load_half(const void *x) { return {_mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i *>(x)))}; }
    void store(float *out) const { _mm256_storeu_ps(out, v); }
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
    float max_lane() const {
        __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        m = _mm_max_ps(m, _mm_movehl_ps(m, m));
        return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
    }
};

inline __m256i broadcast4(const int8_t *x) {
    int32_t four;
    std::memcpy(&four, x, sizeof four);
    return _mm256_set1_epi32(four);
}

struct Avx2Tiles {
    // Pairs of products stay below 2 * 15 * 127, and eight of those below 2^15: 16-bit sums are exact. The last
    // multiply-add weighs the planes: (254 * high + low) stays below 2^31 here, and below 2^24 for 4-bit codes.
    static Avx8 dot_int4(const uint8_t *tile, const int8_t *high, const int8_t *low) {
        const __m256i mask = _mm256_set1_epi8(15);
        __m256i high_sum = _mm256_setzero_si256(), low_sum = _mm256_setzero_si256();
        for (int c = 0; c < 4; c++) {
            const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(tile + c * 32));
            const __m256i first = _mm256_and_si256(both, mask);
            const __m256i second = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
            high_sum = _mm256_add_epi16(high_sum, _mm256_maddubs_epi16(first, broadcast4(high + c * 4)));
            high_sum = _mm256_add_epi16(high_sum, _mm256_maddubs_epi16(second, broadcast4(high + 16 + c * 4)));
            low_sum = _mm256_add_epi16(low_sum, _mm256_maddubs_epi16(first, broadcast4(low + c * 4)));
            low_sum = _mm256_add_epi16(low_sum, _mm256_maddubs_epi16(second, broadcast4(low + 16 + c * 4)));
        }
        return planes(high_sum, low_sum);
    }
    // |w| as unsigned times x with w's sign: 2 * 128 * 127 still fits 16 bits, so each pair is widened at once.
    static Avx8 dot_int8(const uint8_t *tile, const int8_t *high, const int8_t *low) {
        const __m256i ones = _mm256_set1_epi16(1), weight = _mm256_set1_epi16(254);
        __m256i sum = _mm256_setzero_si256();
        for (int c = 0; c < 8; c++) {
            const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(tile + c * 32));
            const __m256i magnitude = _mm256_abs_epi8(w);
            const __m256i h = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(broadcast4(high + c * 4), w));
            const __m256i l = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(broadcast4(low + c * 4), w));
            sum = _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(h, weight), _mm256_madd_epi16(l, ones)));
        }
        return {_mm256_cvtepi32_ps(sum)};
    }

private:
    static Avx8 planes(__m256i high_sum, __m256i low_sum) {
        const __m256i high = _mm256_madd_epi16(high_sum, _mm256_set1_epi16(254));
        return {_mm256_cvtepi32_ps(_mm256_add_epi32(high, _mm256_madd_epi16(low_sum, _mm256_set1_epi16(1))))};
    }
};

void to_f16(const float *x, uint16_t *out, size_t size) {
    size_t i = 0;
    for (; i + 8 <= size; i += 8)
        _mm_storeu_si128(reinterpret_cast<__m128i *>(out + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    for (; i < size; i++) out[i] = float_to_half(x[i]);
}

} // namespace

const Kernels &avx2_kernels() {
    static const Kernels kernels = make_kernels<Avx8, Avx2Tiles>("avx2", to_f16);
    return kernels;
}

} // namespace ml
