// AVX-VNNI (Alder Lake, Sapphire Rapids, Zen 5): four products of a row in one lane, one instruction.
#include "avx8.h"

namespace ml {
namespace {

struct VnniTiles {
    // Codes of 0 to 15 are the unsigned operand; four products are added to a 32-bit lane without saturation.
    static Avx8 dot_int4(const uint8_t *tile, const int8_t *high, const int8_t *low) {
        const __m256i mask = _mm256_set1_epi8(15);
        __m256i h = _mm256_setzero_si256(), l = _mm256_setzero_si256();
        for (int c = 0; c < 4; c++) {
            const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(tile + c * 32));
            const __m256i first = _mm256_and_si256(both, mask);
            const __m256i second = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
            h = _mm256_dpbusd_avx_epi32(h, first, broadcast4(high + c * 4));
            l = _mm256_dpbusd_avx_epi32(l, first, broadcast4(low + c * 4));
            h = _mm256_dpbusd_avx_epi32(h, second, broadcast4(high + 16 + c * 4));
            l = _mm256_dpbusd_avx_epi32(l, second, broadcast4(low + 16 + c * 4));
        }
        return planes(h, l);
    }
    // |w| is the unsigned operand, x takes w's sign.
    static Avx8 dot_int8(const uint8_t *tile, const int8_t *high, const int8_t *low) {
        __m256i h = _mm256_setzero_si256(), l = _mm256_setzero_si256();
        for (int c = 0; c < 8; c++) {
            const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(tile + c * 32));
            const __m256i magnitude = _mm256_abs_epi8(w);
            h = _mm256_dpbusd_avx_epi32(h, magnitude, _mm256_sign_epi8(broadcast4(high + c * 4), w));
            l = _mm256_dpbusd_avx_epi32(l, magnitude, _mm256_sign_epi8(broadcast4(low + c * 4), w));
        }
        return planes(h, l);
    }

private:
    // 254 * high + low, as 256 * high - 2 * high: a 32-bit multiply is slower.
    static Avx8 planes(__m256i high, __m256i low) {
        const __m256i weighted = _mm256_sub_epi32(_mm256_slli_epi32(high, 8), _mm256_slli_epi32(high, 1));
        return {_mm256_cvtepi32_ps(_mm256_add_epi32(weighted, low))};
    }
};

} // namespace

const Kernels &avxvnni_kernels() {
    static const Kernels kernels = make_kernels<Avx8, VnniTiles>("avx-vnni", avx_to_f16);
    return kernels;
}

} // namespace ml
