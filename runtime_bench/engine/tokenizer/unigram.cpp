#include "tokenizer/unigram.h"

#include <algorithm>
#include <limits>

#include "tokenizer/steps.h"

namespace ml {
namespace {

constexpr double kUnknownPenalty = 10;

} // namespace

Unigram::Unigram(const Json &model) {
    double least = std::numeric_limits<double>::infinity();
    for (const Json &entry : model.at("vocab").array("vocab")) {
        const auto &pair = entry.array("a token of the vocabulary");
        require(pair.size() == 2 && tokens_.size() < kMaxId, "a token of the vocabulary is not a text and its score");
        tokens_.push_back(pair[0].string("a token of the vocabulary"));
        scores_.push_back(pair[1].plain_number("the score of a token"));
        least = std::min(least, scores_.back());
    }
    unknown_score_ = least - kUnknownPenalty;
    byte_fallback_ = flag(model, "byte_fallback");
    if (!model.absent("unk_id")) {
        require(!tokens_.empty(), "the tokenizer's vocabulary is empty");
        unknown_ = static_cast<int64_t>(model.at("unk_id").whole("unk_id", 0, tokens_.size() - 1));
    }
    for (uint32_t id = 0; id < tokens_.size(); id++) sorted_.push_back(id);
    std::sort(sorted_.begin(), sorted_.end(), [&](uint32_t a, uint32_t b) {
        const int order = tokens_[a].compare(tokens_[b]);
        return order ? order < 0 : a > b;
    });
    sorted_.erase(
        std::unique(sorted_.begin(), sorted_.end(), [&](uint32_t a, uint32_t b) { return tokens_[a] == tokens_[b]; }),
        sorted_.end());
}

void Unigram::round_as_sentencepiece(const std::unordered_set<std::string> &user_defined) {
    rounded_ = true;
    double least = std::numeric_limits<double>::infinity();
    for (uint32_t id = 0; id < tokens_.size(); id++)
        if (matches(id) && !user_defined.count(tokens_[id])) least = std::min(least, scores_[id]);
    if (least == std::numeric_limits<double>::infinity()) least = 0;
    unknown_score_ = static_cast<float>(least) - static_cast<float>(kUnknownPenalty);
}

int64_t Unigram::id(const std::string &token) const {
    const auto found = std::lower_bound(sorted_.begin(), sorted_.end(), token,
                                        [&](uint32_t id, const std::string &wanted) { return tokens_[id] < wanted; });
    return found != sorted_.end() && tokens_[*found] == token ? int64_t{*found} : -1;
}

// Tokens that begin with the same bytes lie behind each other; of those the shortest first.
template <typename Found> void Unigram::for_each_prefix(std::string_view text, const Found &found) const {
    auto begin = sorted_.begin(), end = sorted_.end();
    for (size_t depth = 0; depth < text.size(); depth++) {
        const auto byte = static_cast<uint8_t>(text[depth]);
        const auto at = [&](uint32_t id) { return static_cast<uint8_t>(tokens_[id][depth]); };
        // All in the range are at least as long as what they share; only the first can be just as long.
        if (begin != end && tokens_[*begin].size() == depth) ++begin;
        begin = std::lower_bound(begin, end, byte, [&](uint32_t id, uint8_t wanted) { return at(id) < wanted; });
        end = std::upper_bound(begin, end, byte, [&](uint8_t wanted, uint32_t id) { return wanted < at(id); });
        if (begin == end) return;
        if (tokens_[*begin].size() == depth + 1) found(*begin, depth + 1);
    }
}

uint32_t Unigram::unknown(std::string_view text) const {
    require(unknown_ >= 0, "the tokenizer has no token for '", std::string(text),
            "', and its model has no unknown token");
    return static_cast<uint32_t>(unknown_);
}

void Unigram::encode(std::string_view word, std::vector<uint32_t> &out) const {
    struct Best { // of the ways to get to a place
        double score = 0;
        size_t from = SIZE_MAX;
        uint32_t id = 0;
    };
    std::vector<Best> best(word.size() + 1);
    const auto consider = [&](size_t from, size_t to, uint32_t id, double score) {
        score += best[from].score;
        if (rounded_) score = static_cast<float>(score);
        if (best[to].from == SIZE_MAX || score > best[to].score) best[to] = {score, from, id};
    };
    for (size_t at = 0; at < word.size();) {
        const size_t bytes = character_at(word, at).bytes;
        bool known = false;
        for_each_prefix(word.substr(at), [&](uint32_t id, size_t length) {
            if (!matches(id)) return;
            consider(at, at + length, id, scores_[id]);
            known = known || length == bytes;
        });
        if (!known) consider(at, at + bytes, unknown(word.substr(at, bytes)), unknown_score_);
        at += bytes;
    }
    struct Part {
        size_t begin, end;
        bool unknown;
    };
    std::vector<Part> parts; // from the last to the first; unknown neighbours are one
    for (size_t end = word.size(); end > 0;) {
        const Best &last = best[end];
        require(last.from < end, "the tokenizer's vocabulary holds parts of characters");
        const bool is_unknown = unknown_ >= 0 && last.id == static_cast<uint32_t>(unknown_);
        if (is_unknown && !parts.empty() && parts.back().unknown) {
            parts.back().begin = last.from;
        } else {
            parts.push_back({last.from, end, is_unknown});
        }
        end = last.from;
    }
    for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
        const std::string_view text = word.substr(part->begin, part->end - part->begin);
        // The library looks up what it has joined, which can be a token; SentencePiece does not.
        const int64_t known = part->unknown && rounded_ ? -1 : id(std::string(text));
        if (known >= 0) {
            out.push_back(static_cast<uint32_t>(known));
        } else if (!byte_fallback_ || !encode_bytes(text, out)) {
            out.push_back(unknown(text));
        }
    }
}

} // namespace ml
