// The normal form that SentencePiece gives a text, for models whose rules the `tokenizers` library does not have
// exactly (docs/format.md, section 2).
#pragma once

#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "tokenizer/double_array.h"

namespace ml {

class Json;

class SentencePieceForm {
public:
    // The `sentencepiece` of an artifact's tokenizer. Throws ml::Error where it is damaged.
    explicit SentencePieceForm(const Json &json);

    // The normal form of a text between added tokens; `first` where none stands before it.
    std::string applied(const std::string &text, bool first) const;
    // Whether a piece is part of the text, and no rule touches it.
    bool keeps(const std::string &piece) const { return kept_set_.count(piece) != 0; }
    const std::unordered_set<std::string> &kept() const { return kept_set_; }

private:
    std::vector<std::string> chunks_of(const std::string &text) const;
    void add_chunks(std::string_view text, std::vector<std::string> &out) const;
    // Bytes of the longest sequence at a place that has a rule, and where its text begins; 0 bytes for none.
    std::pair<size_t, size_t> longest(std::string_view text, size_t at) const;

    DoubleArray rules_;
    std::string texts_, space_;
    bool adds_prefix_ = false, prefix_after_tokens_ = false, removes_spaces_ = false;
    std::vector<std::string> kept_; // longest first
    std::unordered_set<std::string> kept_set_;
};

} // namespace ml
