// The scalar kernel set: slow, obvious, and the truth for every other one.
#include "format/half.h"
#include "kernels/kernels_impl.h"

namespace ml {
namespace {

struct Scalar8 {
    float lane[8];

    template <typename F> static Scalar8 each(const F &f) {
        Scalar8 v;
        for (int i = 0; i < 8; i++) v.lane[i] = f(i);
        return v;
    }
    static Scalar8 all(float x) {
        return each([&](int) { return x; });
    }
    static Scalar8 load(const float *x) {
        return each([&](int i) { return x[i]; });
    }
    static void touch(const uint8_t *x) {
        for (size_t i = 0; i < 32; i += 8) {
            uint64_t word;
            std::memcpy(&word, x + i, sizeof word);
            asm volatile("" ::"r"(word));
        }
    }
    static Scalar8 load_half(const void *x) {
        uint16_t half[8];
        std::memcpy(half, x, sizeof half);
        return each([&](int i) { return half_to_float(half[i]); });
    }
    static Scalar8 load_codes(const uint8_t *x) {
        return each([&](int i) { return static_cast<float>(static_cast<int8_t>(x[i])); });
    }
    static Scalar8 all_half(const void *x) {
        uint16_t half;
        std::memcpy(&half, x, sizeof half);
        return all(half_to_float(half));
    }
    void store(float *out) const { std::memcpy(out, lane, sizeof lane); }
    void store_codes(int8_t *out) const { // whole numbers within -127..127
        for (int i = 0; i < 8; i++) out[i] = static_cast<int8_t>(lane[i]);
    }
    static Scalar8 add(Scalar8 a, Scalar8 b) {
        return each([&](int i) { return a.lane[i] + b.lane[i]; });
    }
    static Scalar8 mul(Scalar8 a, Scalar8 b) {
        return each([&](int i) { return a.lane[i] * b.lane[i]; });
    }
    static Scalar8 div(Scalar8 a, Scalar8 b) {
        return each([&](int i) { return a.lane[i] / b.lane[i]; });
    }
    static Scalar8 fma(Scalar8 a, Scalar8 b, Scalar8 c) {
        return each([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
    }
    // As the x86 instructions: the second operand where one is not a number.
    static Scalar8 max(Scalar8 a, Scalar8 b) {
        return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
    }
    static Scalar8 min(Scalar8 a, Scalar8 b) {
        return each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
    }
    static Scalar8 abs(Scalar8 a) {
        return each([&](int i) { return std::fabs(a.lane[i]); });
    }
    static Scalar8 round(Scalar8 a) {
        return each([&](int i) { return std::nearbyint(a.lane[i]); });
    }
    static Scalar8 power_of_two(Scalar8 n) {
        return each([&](int i) {
            const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(n.lane[i]) + 127) << 23;
            float value;
            std::memcpy(&value, &bits, sizeof value);
            return value;
        });
    }
    // Halves, then quarters, then lanes: the order a vector register folds in.
    float sum() const {
        float s[4];
        for (int i = 0; i < 4; i++) s[i] = lane[i] + lane[i + 4];
        return (s[0] + s[2]) + (s[1] + s[3]);
    }
    // Lane i is the sum of x[i], in the order of pairwise additions.
    static Scalar8 sums(const Scalar8 *x) {
        return each([&](int i) {
            const float *l = x[i].lane;
            return ((l[0] + l[1]) + (l[2] + l[3])) + ((l[4] + l[5]) + (l[6] + l[7]));
        });
    }
    float max_lane() const { return *std::max_element(lane, lane + 8); }
};

// A tile's 8 rows times one group of activations, 256 * high + low, as exact integers until the last step.
struct ScalarTiles {
    static constexpr int kTokens = 4;

    template <bool Symmetric, int R, int N>
    static void dot_int4(const uint8_t *const (&tiles)[R], const Planes (&x)[N], Scalar8 (&out)[R][N]) {
        for (int r = 0; r < R; r++)
            for (int n = 0; n < N; n++)
                out[r][n] = Scalar8::each([&](int row) {
                    int32_t sum = Symmetric ? x[n].eights : 0;
                    for (int i = 0; i < 16; i++) {
                        const uint8_t byte = tiles[r][i / 4 * 32 + row * 4 + i % 4];
                        sum += (byte & 15) * value(x[n], i) + (byte >> 4) * value(x[n], 16 + i);
                    }
                    return static_cast<float>(sum);
                });
    }
    template <int R, int N>
    static void dot_int8(const uint8_t *const (&tiles)[R], const Planes (&x)[N], Scalar8 (&out)[R][N]) {
        for (int r = 0; r < R; r++)
            for (int n = 0; n < N; n++)
                out[r][n] = Scalar8::each([&](int row) {
                    int32_t sum = 0;
                    for (int i = 0; i < 32; i++)
                        sum += static_cast<int8_t>(tiles[r][i / 4 * 32 + row * 4 + i % 4]) * value(x[n], i);
                    return static_cast<float>(sum);
                });
    }

private:
    static int32_t value(const Planes &x, int i) { return 256 * x.high[i] + x.low[i]; }
};

} // namespace

const Kernels &scalar_kernels() {
    static const Kernels kernels = make_kernels<Scalar8, ScalarTiles>("scalar", store_halves);
    return kernels;
}

} // namespace ml
