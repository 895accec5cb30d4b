// AVX2 + FMA + F16C. Compiled with those flags; chosen at run time where the processor has them.
#include "avx8.h"

namespace ml {
namespace {

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

} // namespace

const Kernels &avx2_kernels() {
    static const Kernels kernels = make_kernels<Avx8, Avx2Tiles>("avx2", avx_to_f16);
    return kernels;
}

} // namespace ml
