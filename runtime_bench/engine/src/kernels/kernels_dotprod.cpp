// NEON with the dot product instructions (Cortex-A76 and newer): four products of a row in one lane, one instruction.
#include "kernels/neon8.h"

namespace ml {
namespace {

// Four inputs' worth of 4 rows at a time; `lane` picks which four of the sixteen activations.
template <int lane> inline int32x4_t dot(int32x4_t sum, int8x16_t w, int8x16_t x) {
    return vdotq_laneq_s32(sum, w, x, lane);
}

// Calls body(c) for c in 0..3 as compile-time constants: lanes of an instruction are part of its encoding.
template <typename Body> inline void each_quarter(const Body &body) {
    body(std::integral_constant<int, 0>{});
    body(std::integral_constant<int, 1>{});
    body(std::integral_constant<int, 2>{});
    body(std::integral_constant<int, 3>{});
}

struct DotprodTiles {
    static constexpr int kTokens = 2;

    template <bool Symmetric, int R, int N>
    [[gnu::always_inline]] static void dot_int4(const uint8_t *const (&tiles)[R], const Planes (&x)[N],
                                                Neon8 (&out)[R][N]) {
        Sums<R, N> sums;
        int8x16_t high[N][2], low[N][2]; // inputs 0-15 and 16-31
        for (int n = 0; n < N; n++) {
            sums.start(n, vdupq_n_s32(Symmetric ? x[n].eights : 0));
            for (int half = 0; half < 2; half++) {
                high[n][half] = vld1q_s8(x[n].high + half * 16);
                low[n][half] = vld1q_s8(x[n].low + half * 16);
            }
        }
        each_quarter([&](auto c) {
            for (int r = 0; r < R; r++)
                for (int rows = 0; rows < 2; rows++) {
                    const uint8x16_t both = vld1q_u8(tiles[r] + c * 32 + rows * 16);
                    const int8x16_t first = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
                    const int8x16_t second = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
                    for (int n = 0; n < N; n++) {
                        int32x4_t &h = sums.high[r][n][rows], &l = sums.low[r][n][rows];
                        h = dot<c>(dot<c>(h, first, high[n][0]), second, high[n][1]);
                        l = dot<c>(dot<c>(l, first, low[n][0]), second, low[n][1]);
                    }
                }
        });
        sums.finish(out);
    }
    template <int R, int N>
    [[gnu::always_inline]] static void dot_int8(const uint8_t *const (&tiles)[R], const Planes (&x)[N],
                                                Neon8 (&out)[R][N]) {
        Sums<R, N> sums;
        for (int n = 0; n < N; n++) sums.start(n, vdupq_n_s32(0));
        for (int half = 0; half < 2; half++) {
            int8x16_t high[N], low[N];
            for (int n = 0; n < N; n++) {
                high[n] = vld1q_s8(x[n].high + half * 16);
                low[n] = vld1q_s8(x[n].low + half * 16);
            }
            each_quarter([&](auto c) {
                for (int r = 0; r < R; r++)
                    for (int rows = 0; rows < 2; rows++) {
                        const uint8_t *from = tiles[r] + (half * 4 + c) * 32 + rows * 16;
                        const int8x16_t w = vreinterpretq_s8_u8(vld1q_u8(from));
                        for (int n = 0; n < N; n++) {
                            int32x4_t &h = sums.high[r][n][rows], &l = sums.low[r][n][rows];
                            h = dot<c>(h, w, high[n]);
                            l = dot<c>(l, w, low[n]);
                        }
                    }
            });
        }
        sums.finish(out);
    }

private:
    template <int R, int N> struct Sums {
        int32x4_t high[R][N][2], low[R][N][2]; // rows 0-3 and rows 4-7

        void start(int n, int32x4_t first) {
            for (int r = 0; r < R; r++)
                for (int rows = 0; rows < 2; rows++) {
                    high[r][n][rows] = vdupq_n_s32(0);
                    low[r][n][rows] = first;
                }
        }
        void finish(Neon8 (&out)[R][N]) const {
            for (int r = 0; r < R; r++)
                for (int n = 0; n < N; n++) out[r][n] = planes(high[r][n], low[r][n]);
        }
    };
};

} // namespace

const Kernels &dotprod_kernels() {
    static const Kernels kernels = make_kernels<Neon8, DotprodTiles>("neon-dotprod", neon_store_halves);
    return kernels;
}

} // namespace ml
