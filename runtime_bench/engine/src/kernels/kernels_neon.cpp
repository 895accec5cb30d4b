// NEON as every 64-bit ARM core has it (Cortex-A53, A72): widening multiplies and pairwise sums.
#include "kernels/neon8.h"

namespace ml {
namespace {

// Adds the products of 4 rows by 4 inputs: sums[0] holds rows 0 and 1 as two halves each, sums[1] rows 2 and 3.
inline void add_products(int32x4_t sums[2], int8x16_t w, int8x16_t x) {
    sums[0] = vpadalq_s16(sums[0], vmull_s8(vget_low_s8(w), vget_low_s8(x)));
    sums[1] = vpadalq_s16(sums[1], vmull_high_s8(w, x));
}

inline int8x16_t broadcast4(const int8_t *x) {
    int32_t four;
    std::memcpy(&four, x, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

struct Accumulators {
    int32x4_t sums[2][2] = {}; // rows 0-3 and rows 4-7
    void add(int8x16_t w, int rows, int8x16_t x) { add_products(sums[rows], w, x); }
    void rows(int32x4_t out[2]) const {
        for (int i = 0; i < 2; i++) out[i] = vpaddq_s32(sums[i][0], sums[i][1]);
    }
};

struct NeonTiles {
    static constexpr int kTokens = 2;

    template <bool Symmetric, int R, int N>
    [[gnu::always_inline]] static void dot_int4(const uint8_t *const (&tiles)[R], const Planes (&x)[N],
                                                Neon8 (&out)[R][N]) {
        for (int r = 0; r < R; r++) {
            Accumulators high[N], low[N];
            for (int c = 0; c < 4; c++)
                for (int rows = 0; rows < 2; rows++) {
                    const uint8x16_t both = vld1q_u8(tiles[r] + c * 32 + rows * 16);
                    const int8x16_t first = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
                    const int8x16_t second = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
                    for (int n = 0; n < N; n++) {
                        high[n].add(first, rows, broadcast4(x[n].high + c * 4));
                        high[n].add(second, rows, broadcast4(x[n].high + 16 + c * 4));
                        low[n].add(first, rows, broadcast4(x[n].low + c * 4));
                        low[n].add(second, rows, broadcast4(x[n].low + 16 + c * 4));
                    }
                }
            for (int n = 0; n < N; n++) out[r][n] = finish(high[n], low[n], Symmetric ? x[n].eights : 0);
        }
    }
    template <int R, int N>
    [[gnu::always_inline]] static void dot_int8(const uint8_t *const (&tiles)[R], const Planes (&x)[N],
                                                Neon8 (&out)[R][N]) {
        for (int r = 0; r < R; r++) {
            Accumulators high[N], low[N];
            for (int c = 0; c < 8; c++)
                for (int rows = 0; rows < 2; rows++) {
                    const int8x16_t w = vreinterpretq_s8_u8(vld1q_u8(tiles[r] + c * 32 + rows * 16));
                    for (int n = 0; n < N; n++) {
                        high[n].add(w, rows, broadcast4(x[n].high + c * 4));
                        low[n].add(w, rows, broadcast4(x[n].low + c * 4));
                    }
                }
            for (int n = 0; n < N; n++) out[r][n] = finish(high[n], low[n], 0);
        }
    }

private:
    static Neon8 finish(const Accumulators &high, const Accumulators &low, int32_t start) {
        int32x4_t h[2], l[2];
        high.rows(h);
        low.rows(l);
        for (int32x4_t &half : l) half = vaddq_s32(half, vdupq_n_s32(start));
        return planes(h, l);
    }
};

} // namespace

const Kernels &neon_kernels() {
    static const Kernels kernels = make_kernels<Neon8, NeonTiles>("neon", neon_store_halves);
    return kernels;
}

} // namespace ml
