// A vector of 8 floats in two NEON registers, with the operations and the orders of the scalar one.
#pragma once

#include <arm_neon.h>

#include "kernels/kernels_impl.h"

namespace ml {
namespace {

struct Neon8 {
    float32x4_t a, b;

    static Neon8 all(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
    static Neon8 load(const float *x) { return {vld1q_f32(x), vld1q_f32(x + 4)}; }
    static void touch(const uint8_t *x) { asm volatile("" ::"w"(vld1q_u8(x)), "w"(vld1q_u8(x + 16))); }
    static Neon8 load_half(const void *x) {
        const float16x8_t half = vreinterpretq_f16_u8(vld1q_u8(static_cast<const uint8_t *>(x)));
        return {vcvt_f32_f16(vget_low_f16(half)), vcvt_high_f32_f16(half)};
    }
    static Neon8 load_codes(const uint8_t *x) {
        const int16x8_t wide = vmovl_s8(vreinterpret_s8_u8(vld1_u8(x)));
        return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), vcvtq_f32_s32(vmovl_high_s16(wide))};
    }
    static Neon8 all_half(const void *x) {
        uint16_t half;
        std::memcpy(&half, x, sizeof half);
        const float32x4_t four = vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half)));
        return {four, four};
    }
    void store(float *out) const {
        vst1q_f32(out, a);
        vst1q_f32(out + 4, b);
    }
    void store_codes(int8_t *out) const { // whole numbers within -127..127
        const int16x8_t words = vcombine_s16(vmovn_s32(vcvtq_s32_f32(a)), vmovn_s32(vcvtq_s32_f32(b)));
        vst1_s8(out, vmovn_s16(words));
    }
    static Neon8 add(Neon8 x, Neon8 y) { return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b)}; }
    static Neon8 mul(Neon8 x, Neon8 y) { return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b)}; }
    static Neon8 div(Neon8 x, Neon8 y) { return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b)}; }
    static Neon8 fma(Neon8 x, Neon8 y, Neon8 z) { return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b)}; }
    // By comparison, not vmaxq: the second operand where one is not a number, as in the other sets.
    static Neon8 max(Neon8 x, Neon8 y) {
        return {vbslq_f32(vcgtq_f32(x.a, y.a), x.a, y.a), vbslq_f32(vcgtq_f32(x.b, y.b), x.b, y.b)};
    }
    static Neon8 min(Neon8 x, Neon8 y) {
        return {vbslq_f32(vcltq_f32(x.a, y.a), x.a, y.a), vbslq_f32(vcltq_f32(x.b, y.b), x.b, y.b)};
    }
    static Neon8 abs(Neon8 x) { return {vabsq_f32(x.a), vabsq_f32(x.b)}; }
    static Neon8 round(Neon8 x) { return {vrndnq_f32(x.a), vrndnq_f32(x.b)}; }
    static Neon8 power_of_two(Neon8 n) { return {power4(n.a), power4(n.b)}; }
    float sum() const {
        const float32x4_t s = vaddq_f32(a, b);
        const float32x2_t halves = vadd_f32(vget_low_f32(s), vget_high_f32(s));
        return vget_lane_f32(halves, 0) + vget_lane_f32(halves, 1);
    }
    // Lane i is the sum of x[i], in the order of pairwise additions.
    static Neon8 sums(const Neon8 *x) { return {sums4(x), sums4(x + 4)}; }
    float max_lane() const {
        float lanes[8];
        store(lanes);
        return *std::max_element(lanes, lanes + 8);
    }

private:
    static float32x4_t sums4(const Neon8 *x) {
        return vaddq_f32(vpaddq_f32(vpaddq_f32(x[0].a, x[1].a), vpaddq_f32(x[2].a, x[3].a)),
                         vpaddq_f32(vpaddq_f32(x[0].b, x[1].b), vpaddq_f32(x[2].b, x[3].b)));
    }
    static float32x4_t power4(float32x4_t n) {
        return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23));
    }
};

// 256 * high + low of 8 rows, exact in 32 bits.
inline Neon8 planes(const int32x4_t high[2], const int32x4_t low[2]) {
    return {vcvtq_f32_s32(vaddq_s32(low[0], vshlq_n_s32(high[0], 8))),
            vcvtq_f32_s32(vaddq_s32(low[1], vshlq_n_s32(high[1], 8)))};
}

inline void neon_store_halves(const float *x, size_t size, uint8_t *out) {
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
        const Neon8 v = saturated(Neon8::load(x + i));
        vst1_u8(out + 2 * i, vreinterpret_u8_f16(vcvt_f16_f32(v.a)));
        vst1_u8(out + 2 * i + 8, vreinterpret_u8_f16(vcvt_f16_f32(v.b)));
    }
    store_halves(x + i, size - i, out + 2 * i);
}

} // namespace
} // namespace ml
