// Tokens that come out of a text before anything else happens to it, as the `tokenizers` library takes them out.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "tokenizer/aligned_text.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/token_model.h"

namespace ml {

class AddedTokens {
public:
    struct Piece {
        AlignedText text;
        int64_t id = -1; // an added token; else text
    };

    // The `added_tokens` of a tokenizer's JSON, or null.
    AddedTokens(const Json &list, const TokenModel &model, const Normalizer &normalizer);

    // A text without the tokens that stand for texts in their normal form, or for texts as they are.
    std::vector<Piece> cut_out(const AlignedText &text, bool normalized) const;
    // The text of an added token's id as a decoder gets it, or null.
    const std::string *token(uint32_t id) const;
    bool is_special(const std::string &token) const { return special_.count(token) != 0; }

private:
    struct Added {
        std::string content, match; // match: what stands for it in a text
        bool normalized = false, single_word = false, left = false, right = false;
    };
    struct Found {
        size_t begin = 0, end = 0;
        uint32_t id = 0;
    };
    std::optional<Found> find(const std::string &text, size_t from, bool normalized) const;

    std::unordered_map<uint32_t, Added> by_id_;
    std::unordered_set<std::string> special_;
    std::vector<uint32_t> by_first_byte_[2][256]; // of those that match as they are, and normalized; longest first
};

} // namespace ml
