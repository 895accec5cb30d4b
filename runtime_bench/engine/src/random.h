// Random numbers by their place, not by their turn: Philox4x32-10 over seed, position and draw (docs/random.md;
// Salmon, Moraes, Dror and Shaw, SC 2011, section 3.3). mobileloop/decode/random.py is the same in Python.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace ml {

using Words = std::array<uint32_t, 4>;

constexpr uint32_t kSamplingStream = 0; // that of noise is 1 + the application's index

inline Words philox(Words counter, uint64_t seed) {
    auto low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t first = uint64_t{0xD2511F53} * counter[0], second = uint64_t{0xCD9E8D57} * counter[2];
        counter = {static_cast<uint32_t>(second >> 32) ^ counter[1] ^ low, static_cast<uint32_t>(second),
                   static_cast<uint32_t>(first >> 32) ^ counter[3] ^ high, static_cast<uint32_t>(first)};
        low += 0x9E3779B9;
        high += 0xBB67AE85;
    }
    return counter;
}

inline Words random_words(uint64_t seed, uint64_t position, uint32_t draw, uint32_t stream) {
    return philox({draw, static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), stream}, seed);
}

// Two words as a number in [0, 1): the upper 53 of their 64 bits.
inline double unit(uint32_t low, uint32_t high) {
    return static_cast<double>((uint64_t{high} << 32 | low) >> 11) * 0x1p-53;
}

inline double uniform(uint64_t seed, uint64_t position, uint32_t draw = 0, uint32_t stream = kSamplingStream) {
    const Words words = random_words(seed, position, draw, stream);
    return unit(words[0], words[1]);
}

// Two standard normal numbers of one draw, by Box and Muller in double.
inline std::array<float, 2> normal_pair(uint64_t seed, uint64_t position, uint32_t draw, uint32_t stream) {
    const Words words = random_words(seed, position, draw, stream);
    const double radius = std::sqrt(-2 * std::log(1 - unit(words[0], words[1])));
    const double angle = 2 * 3.14159265358979323846 * unit(words[2], words[3]);
    return {static_cast<float>(radius * std::cos(angle)), static_cast<float>(radius * std::sin(angle))};
}

} // namespace ml
