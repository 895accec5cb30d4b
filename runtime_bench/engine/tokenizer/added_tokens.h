// Tokens that come out of a text before anything else happens to it, as the `tokenizers` library takes them out.
#pragma once

#include <algorithm>
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

    // A text without the tokens that stand for texts in their normal form, or for texts as they are; special ones stay
    // where `keeps_special` is set.
    std::vector<Piece> cut_out(const AlignedText &text, bool normalized, bool keeps_special = false) const;
    // The same of all tokens at once for which outer(content) holds, as `mobileloop run` does it before SentencePiece's
    // normal form: what a token takes of the spaces beside it counts where it begins.
    template <typename Outer> std::vector<Piece> cut_out_whole(const std::string &text, const Outer &outer) const;
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
    struct Spaces { // that a token may take in front of it, with the places in them: looked at once
        size_t from = 1, to = 0;
        size_t content = 0; // the last place in them, or behind them, where the token's content stands; or npos
    };
    size_t content_behind_spaces(const std::string &text, size_t at, const Added &added, Spaces &seen) const;
    // Where a token that may take spaces matches at exactly this place, or nothing.
    std::optional<Found> match_at(const std::string &text, size_t at, uint32_t id, Spaces &seen) const;
    std::optional<Found> find(const std::string &text, size_t from, bool normalized) const;

    std::unordered_map<uint32_t, Added> by_id_;
    std::unordered_set<std::string> special_;
    std::vector<uint32_t> by_first_byte_[2][256]; // of those that match as they are, and normalized; longest first
};

template <typename Outer>
std::vector<AddedTokens::Piece> AddedTokens::cut_out_whole(const std::string &text, const Outer &outer) const {
    std::vector<uint32_t> ids;
    for (const auto &[id, added] : by_id_)
        if (outer(added.content)) ids.push_back(id);
    const auto size = [&](uint32_t id) { return by_id_.at(id).content.size(); };
    std::sort(ids.begin(), ids.end(),
              [&](uint32_t a, uint32_t b) { return size(a) != size(b) ? size(a) > size(b) : a < b; });
    std::vector<Spaces> seen(ids.size());
    std::vector<Piece> pieces;
    size_t rest = 0;
    for (size_t at = 0; at < text.size();) {
        std::optional<Found> found;
        for (size_t i = 0; i < ids.size() && !found; i++) found = match_at(text, at, ids[i], seen[i]);
        if (!found) {
            at += character_at(text, at).bytes;
            continue;
        }
        if (found->begin > rest) pieces.push_back({AlignedText(text.substr(rest, found->begin - rest)), -1});
        pieces.push_back({AlignedText(""), int64_t{found->id}});
        rest = at = found->end;
    }
    if (rest < text.size()) pieces.push_back({AlignedText(text.substr(rest)), -1});
    return pieces;
}

} // namespace ml
