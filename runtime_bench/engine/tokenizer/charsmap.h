// SentencePiece's precompiled character map, as the `tokenizers` library reads it: which texts become which others.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tokenizer/aligned_text.h"
#include "tokenizer/double_array.h"

namespace ml {

class Charsmap {
public:
    // The bytes in base64. Throws ml::Error where they are no character map.
    explicit Charsmap(const std::string &base64);

    // Throws ml::Error where the map leads outside itself.
    void apply(AlignedText &text) const;

private:
    // What stands for a part of a text by the shortest of its beginnings that the map holds.
    bool find(std::string_view part, std::string_view &replacement) const;
    uint32_t unit(size_t at) const;

    DoubleArray trie_;
    std::string texts_; // each ends with a zero byte
};

} // namespace ml
