// AVX-VNNI (Alder Lake, Sapphire Rapids, Zen 5): four products of a row in one lane, one instruction.
#include "kernels/avx8.h"

namespace ml {
namespace {

struct VnniTiles {
    static constexpr int kTokens = 2;

    // Codes of 0 to 15 are the unsigned operand; four products are added to a 32-bit lane without saturation.
    template <bool Symmetric, int R, int N>
    static void dot_int4(const uint8_t *const (&tiles)[R], const Planes (&x)[N], Avx8 (&out)[R][N]) {
        const __m256i mask = _mm256_set1_epi8(15);
        Sums<R, N> sums;
        for (int n = 0; n < N; n++) sums.start(n, Symmetric ? _mm256_set1_epi32(x[n].eights) : _mm256_setzero_si256());
        for (int c = 0; c < 4; c++) {
            __m256i first[R], second[R];
            for (int r = 0; r < R; r++) {
                const __m256i both = load32(tiles[r] + c * 32);
                first[r] = _mm256_and_si256(both, mask);
                second[r] = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
            }
            for (int n = 0; n < N; n++) {
                sums.add(n, first, x[n], c * 4);
                sums.add(n, second, x[n], 16 + c * 4);
            }
        }
        sums.planes(out);
    }
    // Codes moved by 128 are the unsigned operand, and the sums start with what that adds too much.
    template <int R, int N>
    static void dot_int8(const uint8_t *const (&tiles)[R], const Planes (&x)[N], Avx8 (&out)[R][N]) {
        const __m256i top = _mm256_set1_epi8(-128);
        Sums<R, N> sums;
        for (int n = 0; n < N; n++) sums.start(n, _mm256_slli_epi32(_mm256_set1_epi32(x[n].eights), 4));
        for (int c = 0; c < 8; c++) {
            __m256i moved[R];
            for (int r = 0; r < R; r++) moved[r] = _mm256_xor_si256(load32(tiles[r] + c * 32), top);
            for (int n = 0; n < N; n++) sums.add(n, moved, x[n], c * 4);
        }
        sums.planes(out);
    }

private:
    template <int R, int N> struct Sums {
        __m256i high[R][N], low[R][N];

        void start(int n, __m256i first) {
            for (int r = 0; r < R; r++) {
                high[r][n] = _mm256_setzero_si256();
                low[r][n] = first;
            }
        }
        void add(int n, const __m256i (&weights)[R], const Planes &x, int at) {
            const __m256i h = broadcast4(x.high + at), l = broadcast4(x.low + at);
            for (int r = 0; r < R; r++) {
                high[r][n] = _mm256_dpbusd_avx_epi32(high[r][n], weights[r], h);
                low[r][n] = _mm256_dpbusd_avx_epi32(low[r][n], weights[r], l);
            }
        }
        void planes(Avx8 (&out)[R][N]) const {
            for (int r = 0; r < R; r++)
                for (int n = 0; n < N; n++)
                    out[r][n] = {_mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_slli_epi32(high[r][n], 8), low[r][n]))};
        }
    };
};

} // namespace

const Kernels &avxvnni_kernels() {
    static const Kernels kernels = make_kernels<Avx8, VnniTiles>("avx-vnni", avx_store_halves);
    return kernels;
}

} // namespace ml
