// SentencePiece's compiled rules for texts: a double array over bytes, and the texts that its values lead to.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ml {

// Bytes of base64, in any lines. Throws ml::Error with these words where it is none.
std::string bytes_of_base64(const std::string &text, const char *what);

struct DoubleArray {
    static constexpr uint32_t kLeaf = 1u << 8;

    // The bytes of compiled rules: the length of the array in bytes, the array, the texts. False where they are cut
    // short.
    bool read(const std::string &bytes, std::string &texts);
    static size_t offset(uint32_t unit) { return static_cast<size_t>(unit >> 10) << ((unit & 1u << 9) >> 6); }
    static uint32_t label(uint32_t unit) { return unit & (1u << 31 | 0xFF); }
    static uint32_t value(uint32_t unit) { return unit & ~(1u << 31); }

    std::vector<uint32_t> units;
};

} // namespace ml
