// AVX2 + FMA + F16C. Compiled with those flags; chosen at run time where the processor has them.
#include "kernels/avx8.h"

namespace ml {
namespace {

struct Avx2Tiles {
    static constexpr int kTokens = 2;

    // Pairs of products stay below 2 * 15 * 127, and eight of those below 2^15: 16-bit sums are exact. The last
    // multiply-add weighs the planes: (256 * high + low) stays below 2^31 here, and below 2^24 for 4-bit codes.
    template <bool Symmetric, int R, int N>
    static void dot_int4(const uint8_t *const (&tiles)[R], const Planes (&x)[N], Avx8 (&out)[R][N]) {
        const __m256i mask = _mm256_set1_epi8(15);
        __m256i high[R][N], low[R][N];
        for (int r = 0; r < R; r++)
            for (int n = 0; n < N; n++) high[r][n] = low[r][n] = _mm256_setzero_si256();
        for (int c = 0; c < 4; c++) {
            __m256i first[R], second[R];
            for (int r = 0; r < R; r++) {
                const __m256i both = load32(tiles[r] + c * 32);
                first[r] = _mm256_and_si256(both, mask);
                second[r] = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
            }
            for (int n = 0; n < N; n++) {
                add(high, first, x[n].high + c * 4, n);
                add(low, first, x[n].low + c * 4, n);
                add(high, second, x[n].high + 16 + c * 4, n);
                add(low, second, x[n].low + 16 + c * 4, n);
            }
        }
        for (int r = 0; r < R; r++)
            for (int n = 0; n < N; n++) {
                const __m256i weighted = _mm256_madd_epi16(high[r][n], _mm256_set1_epi16(256));
                __m256i sum = _mm256_add_epi32(weighted, _mm256_madd_epi16(low[r][n], _mm256_set1_epi16(1)));
                if (Symmetric) sum = _mm256_add_epi32(sum, _mm256_set1_epi32(x[n].eights));
                out[r][n] = {_mm256_cvtepi32_ps(sum)};
            }
    }
    // |w| as unsigned times x with w's sign: 2 * 128 * 127 still fits 16 bits, so each pair is widened at once.
    template <int R, int N>
    static void dot_int8(const uint8_t *const (&tiles)[R], const Planes (&x)[N], Avx8 (&out)[R][N]) {
        const __m256i ones = _mm256_set1_epi16(1), weight = _mm256_set1_epi16(256);
        __m256i sums[R][N];
        for (int r = 0; r < R; r++)
            for (int n = 0; n < N; n++) sums[r][n] = _mm256_setzero_si256();
        for (int c = 0; c < 8; c++)
            for (int r = 0; r < R; r++) {
                const __m256i w = load32(tiles[r] + c * 32), magnitude = _mm256_abs_epi8(w);
                for (int n = 0; n < N; n++) {
                    const __m256i high = _mm256_sign_epi8(broadcast4(x[n].high + c * 4), w);
                    const __m256i low = _mm256_sign_epi8(broadcast4(x[n].low + c * 4), w);
                    const __m256i h = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, high), weight);
                    const __m256i l = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, low), ones);
                    sums[r][n] = _mm256_add_epi32(sums[r][n], _mm256_add_epi32(h, l));
                }
            }
        for (int r = 0; r < R; r++)
            for (int n = 0; n < N; n++) out[r][n] = {_mm256_cvtepi32_ps(sums[r][n])};
    }

private:
    template <int R, int N>
    static void add(__m256i (&sums)[R][N], const __m256i (&weights)[R], const int8_t *x, int n) {
        const __m256i four = broadcast4(x);
        for (int r = 0; r < R; r++) sums[r][n] = _mm256_add_epi16(sums[r][n], _mm256_maddubs_epi16(weights[r], four));
    }
};

} // namespace

const Kernels &avx2_kernels() {
    static const Kernels kernels = make_kernels<Avx8, Avx2Tiles>("avx2", avx_store_halves);
    return kernels;
}

} // namespace ml
