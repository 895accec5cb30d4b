// Unigram language models as the `tokenizers` library does them: of all ways to cut a word into tokens the likeliest.
#pragma once

#include <unordered_set>

#include "tokenizer/token_model.h"

namespace ml {

class Unigram : public TokenModel {
public:
    // Throws ml::Error for what this reader does not do exactly.
    explicit Unigram(const Json &model);
    // From now on as SentencePiece itself: scores are rounded to floats, pieces of a score that always loses are none,
    // and user-defined ones do not count for the score of the unknown one.
    void round_as_sentencepiece(const std::unordered_set<std::string> &user_defined);

    // A text of unknown characters becomes its bytes' tokens, or else one unknown token. Throws ml::Error where the
    // model has none.
    void encode(std::string_view word, std::vector<uint32_t> &out) const override;
    int64_t id(const std::string &token) const override;
    const std::string *token(uint32_t id) const override { return id < tokens_.size() ? &tokens_[id] : nullptr; }
    uint32_t size() const override { return static_cast<uint32_t>(tokens_.size()); }

private:
    // Calls found(id, bytes) for each token that the text begins with, the shortest first.
    template <typename Found> void for_each_prefix(std::string_view text, const Found &found) const;
    uint32_t unknown(std::string_view text) const;
    bool matches(uint32_t id) const { return !rounded_ || scores_[id] > kUnmatched; }

    static constexpr double kUnmatched = -1e6;

    std::vector<std::string> tokens_;
    std::vector<double> scores_;
    std::vector<uint32_t> sorted_; // ids by their tokens, of equal tokens the last
    double unknown_score_ = 0;
    int64_t unknown_ = -1;
    bool byte_fallback_ = false, rounded_ = false;
};

} // namespace ml
