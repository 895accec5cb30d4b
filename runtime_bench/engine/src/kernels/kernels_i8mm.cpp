// NEON with the 8-bit matrix products (Cortex-A710, X2 and newer): 2 rows of weights by 8 inputs, times 8 inputs by 2
// columns, one instruction. The two columns are the two planes of one token, so that a single token fills them.
#include "kernels/neon8.h"

namespace ml {
namespace {

struct I8mmTiles {
    static constexpr int kTokens = 2;

    template <bool Symmetric, int R, int N>
    [[gnu::always_inline]] static void dot_int4(const uint8_t *const (&tiles)[R], const Planes (&x)[N],
                                                Neon8 (&out)[R][N]) {
        int8x16_t columns[N][4];
        load_columns(x, columns);
        for (int r = 0; r < R; r++) {
            Sums<N> sums;
            for (int n = 0; n < N; n++) sums.start(n, Symmetric ? x[n].eights : 0);
            for (int c = 0; c < 2; c++) // inputs 8 c to 8 c + 7, and in the high nibbles those 16 above
                for (int rows = 0; rows < 4; rows += 2) {
                    int8x16_t both[2];
                    load_pairs(tiles[r] + c * 64 + rows * 8, both);
                    for (int pair = 0; pair < 2; pair++) {
                        const uint8x16_t codes = vreinterpretq_u8_s8(both[pair]);
                        const int8x16_t first = vreinterpretq_s8_u8(vandq_u8(codes, vdupq_n_u8(15)));
                        const int8x16_t second = vreinterpretq_s8_u8(vshrq_n_u8(codes, 4));
                        for (int n = 0; n < N; n++) {
                            sums.add(n, rows + pair, first, columns[n][c]);
                            sums.add(n, rows + pair, second, columns[n][2 + c]);
                        }
                    }
                }
            for (int n = 0; n < N; n++) out[r][n] = sums.planes_of(n);
        }
    }
    template <int R, int N>
    [[gnu::always_inline]] static void dot_int8(const uint8_t *const (&tiles)[R], const Planes (&x)[N],
                                                Neon8 (&out)[R][N]) {
        int8x16_t columns[N][4];
        load_columns(x, columns);
        for (int r = 0; r < R; r++) {
            Sums<N> sums;
            for (int n = 0; n < N; n++) sums.start(n, 0);
            for (int c = 0; c < 4; c++)
                for (int rows = 0; rows < 4; rows += 2) {
                    int8x16_t codes[2];
                    load_pairs(tiles[r] + c * 64 + rows * 8, codes);
                    for (int pair = 0; pair < 2; pair++)
                        for (int n = 0; n < N; n++) sums.add(n, rows + pair, codes[pair], columns[n][c]);
                }
            for (int n = 0; n < N; n++) out[r][n] = sums.planes_of(n);
        }
    }

private:
    // columns[n][c]: inputs 8 c to 8 c + 7 of token n, the high plane and then the low one.
    template <int N> static void load_columns(const Planes (&x)[N], int8x16_t (&columns)[N][4]) {
        for (int n = 0; n < N; n++)
            for (int c = 0; c < 4; c++)
                columns[n][c] = vcombine_s8(vld1_s8(x[n].high + c * 8), vld1_s8(x[n].low + c * 8));
    }
    // A tile holds 4 inputs of 8 rows, then the next 4: pairs[i] becomes 8 inputs of rows 2 i and 2 i + 1 of the four
    // at `from`.
    static void load_pairs(const uint8_t *from, int8x16_t (&pairs)[2]) {
        const int32x4_t near = vreinterpretq_s32_u8(vld1q_u8(from)), far = vreinterpretq_s32_u8(vld1q_u8(from + 32));
        pairs[0] = vreinterpretq_s8_s32(vzip1q_s32(near, far));
        pairs[1] = vreinterpretq_s8_s32(vzip2q_s32(near, far));
    }

    template <int N> struct Sums {
        int32x4_t pairs[N][4]; // of two rows each: high and low of the one, high and low of the other

        void start(int n, int32_t first) {
            const int32x4_t low = vreinterpretq_s32_s64(vdupq_n_s64(static_cast<int64_t>(first) * (int64_t{1} << 32)));
            for (int32x4_t &pair : pairs[n]) pair = low;
        }
        void add(int n, int pair, int8x16_t weights, int8x16_t columns) {
            pairs[n][pair] = vmmlaq_s32(pairs[n][pair], weights, columns);
        }
        // 256 * high + low of 8 rows, exact in 32 bits: shift the highs, then add neighbours.
        Neon8 planes_of(int n) const {
            const int32x4_t by = vreinterpretq_s32_s64(vdupq_n_s64(8)); // 8, 0, 8, 0
            int32x4_t shifted[4];
            for (int pair = 0; pair < 4; pair++) shifted[pair] = vshlq_s32(pairs[n][pair], by);
            return {vcvtq_f32_s32(vpaddq_s32(shifted[0], shifted[1])),
                    vcvtq_f32_s32(vpaddq_s32(shifted[2], shifted[3]))};
        }
    };
};

} // namespace

const Kernels &i8mm_kernels() {
    static const Kernels kernels = make_kernels<Neon8, I8mmTiles>("neon-i8mm", neon_store_halves);
    return kernels;
}

} // namespace ml
