// NEON with the dot product instructions (Cortex-A76 and newer): four products of a row in one lane, one instruction.
#include "neon8.h"

namespace ml {
namespace {

// Four inputs' worth of 4 rows at a time; `lane` picks which four of the sixteen activations.
template <int lane> inline int32x4_t dot(int32x4_t sum, int8x16_t w, int8x16_t x) {
    return vdotq_laneq_s32(sum, w, x, lane);
}

struct DotprodTiles {
    static Neon8 dot_int4(const uint8_t *tile, const int8_t *high, const int8_t *low) {
        const int8x16_t first_high = vld1q_s8(high), second_high = vld1q_s8(high + 16);
        const int8x16_t first_low = vld1q_s8(low), second_low = vld1q_s8(low + 16);
        int32x4_t h[2] = {vdupq_n_s32(0), vdupq_n_s32(0)}, l[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
        const auto step = [&](auto c) {
            for (int rows = 0; rows < 2; rows++) {
                const uint8x16_t both = vld1q_u8(tile + c * 32 + rows * 16);
                const int8x16_t first = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
                const int8x16_t second = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
                h[rows] = dot<c>(dot<c>(h[rows], first, first_high), second, second_high);
                l[rows] = dot<c>(dot<c>(l[rows], first, first_low), second, second_low);
            }
        };
        step(std::integral_constant<int, 0>{});
        step(std::integral_constant<int, 1>{});
        step(std::integral_constant<int, 2>{});
        step(std::integral_constant<int, 3>{});
        return planes(h, l);
    }
    static Neon8 dot_int8(const uint8_t *tile, const int8_t *high, const int8_t *low) {
        int32x4_t h[2] = {vdupq_n_s32(0), vdupq_n_s32(0)}, l[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
        for (int half = 0; half < 2; half++) {
            const int8x16_t x_high = vld1q_s8(high + half * 16), x_low = vld1q_s8(low + half * 16);
            const auto step = [&](auto c) {
                for (int rows = 0; rows < 2; rows++) {
                    const int8x16_t w = vreinterpretq_s8_u8(vld1q_u8(tile + (half * 4 + c) * 32 + rows * 16));
                    h[rows] = dot<c>(h[rows], w, x_high);
                    l[rows] = dot<c>(l[rows], w, x_low);
                }
            };
            step(std::integral_constant<int, 0>{});
            step(std::integral_constant<int, 1>{});
            step(std::integral_constant<int, 2>{});
            step(std::integral_constant<int, 3>{});
        }
        return planes(h, l);
    }
};

} // namespace

const Kernels &dotprod_kernels() {
    static const Kernels kernels = make_kernels<Neon8, DotprodTiles>("neon-dotprod", neon_to_f16);
    return kernels;
}

} // namespace ml
