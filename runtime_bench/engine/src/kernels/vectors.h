// What every kernel is made of: steps over an abstract vector of 8 floats, `V`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "format/half.h"
#include "kernels/kernels.h"

namespace ml {
namespace {

// 1/2^k style Cephes exponential: |relative error| < 2e-7 over the range used here; the same operations in every set.
template <typename V> V exponential(V x) {
    x = V::max(V::min(x, V::all(88.0f)), V::all(-87.0f));
    const V n = V::round(V::mul(x, V::all(1.44269504088896341f)));
    V r = V::fma(n, V::all(-0.693359375f), x);
    r = V::fma(n, V::all(2.12194440e-4f), r);
    V p = V::all(1.9875691500e-4f);
    p = V::fma(p, r, V::all(1.3981999507e-3f));
    p = V::fma(p, r, V::all(8.3334519073e-3f));
    p = V::fma(p, r, V::all(4.1665795894e-2f));
    p = V::fma(p, r, V::all(1.6666665459e-1f));
    p = V::fma(p, r, V::all(5.0000001201e-1f));
    p = V::fma(p, V::mul(r, r), V::add(r, V::all(1.0f)));
    return V::mul(p, V::power_of_two(n));
}

// Calls body(offset, valid) over 8-float steps; the last step may be partial.
template <typename Body> void for_steps(size_t size, const Body &body) {
    size_t i = 0;
    for (; i + 8 <= size; i += 8) body(i, size_t{8});
    if (i < size) body(i, size - i);
}

template <typename V> V load_some(const float *x, size_t valid) {
    if (valid == 8) return V::load(x);
    float padded[8] = {};
    std::memcpy(padded, x, valid * sizeof(float));
    return V::load(padded);
}

template <typename V> void store_some(float *out, V value, size_t valid) {
    if (valid == 8) return value.store(out);
    float padded[8];
    value.store(padded);
    std::memcpy(out, padded, valid * sizeof(float));
}

// To the range of float16. The value comes second, so that one that is not a number stays so.
template <typename V> V saturated(V x) { return V::max(V::all(-kLargestHalf), V::min(V::all(kLargestHalf), x)); }

inline uint16_t saturated_half(float x) {
    return float_to_half(x > kLargestHalf ? kLargestHalf : x < -kLargestHalf ? -kLargestHalf : x);
}

// Codes of one step, rounded, clipped to -127..127 (a value that is not a number, from a hostile file, becomes -127).
template <typename V> V clipped(V rounded) { return V::min(V::max(rounded, V::all(-127.0f)), V::all(127.0f)); }

} // namespace
} // namespace ml
