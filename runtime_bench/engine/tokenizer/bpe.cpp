#include "tokenizer/bpe.h"

#include <queue>

#include "tokenizer/steps.h"

namespace ml {
namespace {

constexpr uint32_t kNone = UINT32_MAX;

} // namespace

Bpe::Bpe(const Json &model) {
    require(model.absent("dropout") || model.at("dropout").number("dropout") == 0,
            "the tokenizer's model drops merges at random (dropout)");
    for (const char *affix : {"continuing_subword_prefix", "end_of_word_suffix"})
        require(model.absent(affix) || model.at(affix).string(affix).empty(), "the tokenizer's model sets ", affix,
                ", which this program does not know");
    for (const auto &[token, id] : model.at("vocab").object("vocab")) {
        const auto number = static_cast<uint32_t>(id.whole("the id of a token", 0, kMaxId));
        const auto stored = ids_.emplace(token, number).first;
        require(tokens_.emplace(number, &stored->first).second, "two tokens have the id ", number);
    }
    fuse_unknown_ = flag(model, "fuse_unk");
    byte_fallback_ = flag(model, "byte_fallback");
    ignore_merges_ = flag(model, "ignore_merges");
    if (!model.absent("unk_token")) {
        const std::string &token = model.at("unk_token").string("unk_token");
        unknown_ = id(token);
        if (unknown_ < 0) missing_ = token;
    }
    read_merges(model.at("merges"));
}

void Bpe::read_merges(const Json &merges) {
    uint32_t rank = 0;
    for (const Json &merge : merges.array("merges")) {
        std::string left, right;
        if (merge.kind() == Json::Kind::string) {
            const std::string &both = merge.string("a merge");
            const size_t space = both.find(' ');
            require(space != std::string::npos && both.find(' ', space + 1) == std::string::npos, "merge ", rank,
                    " of the tokenizer is not two tokens with a space between them");
            left = both.substr(0, space);
            right = both.substr(space + 1);
        } else {
            const auto &pair = merge.array("a merge");
            require(pair.size() == 2, "merge ", rank, " of the tokenizer is not a pair");
            left = pair[0].string("a merge");
            right = pair[1].string("a merge");
        }
        const int64_t a = id(left), b = id(right), whole = id(left + right);
        require(a >= 0 && b >= 0 && whole >= 0, "merge ", rank,
                " of the tokenizer names a token outside its vocabulary");
        // A pair that is listed twice counts as the later one.
        merges_[static_cast<uint64_t>(a) << 32 | static_cast<uint64_t>(b)] = {rank++, static_cast<uint32_t>(whole)};
    }
}

int64_t Bpe::id(const std::string &token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? -1 : int64_t{found->second};
}

const std::string *Bpe::token(uint32_t id) const {
    const auto found = tokens_.find(id);
    return found == tokens_.end() ? nullptr : found->second;
}

const Bpe::Merge *Bpe::find(uint32_t left, uint32_t right) const {
    const auto found = merges_.find(uint64_t{left} << 32 | right);
    return found == merges_.end() ? nullptr : &found->second;
}

void Bpe::encode(std::string_view word, std::vector<uint32_t> &out) const {
    if (word.empty()) return;
    if (ignore_merges_) {
        const int64_t whole = id(std::string(word));
        if (whole >= 0) return out.push_back(static_cast<uint32_t>(whole));
    }
    const size_t begin = out.size();
    split(word, out);
    merge(out, begin);
}

// One token per character, else one per byte, else the unknown token.
void Bpe::split(std::string_view word, std::vector<uint32_t> &out) const {
    bool pending = false; // an unknown token that the next one may join
    for (size_t at = 0; at < word.size();) {
        const std::string text(word.substr(at, character_at(word, at).bytes));
        at += text.size();
        const int64_t known = id(text);
        if (known >= 0) {
            if (pending) out.push_back(static_cast<uint32_t>(unknown_));
            pending = false;
            out.push_back(static_cast<uint32_t>(known));
            continue;
        }
        if (byte_fallback_ && encode_bytes(text, out)) continue;
        require(missing_.empty(), "the tokenizer has no token for '", text, "', and its unknown token ", missing_,
                " is not in its vocabulary");
        if (unknown_ < 0) continue;
        if (pending && !fuse_unknown_) out.push_back(static_cast<uint32_t>(unknown_));
        pending = true;
    }
    if (pending) out.push_back(static_cast<uint32_t>(unknown_));
}

// The merge of the lowest rank first, the leftmost of equals, until none is left: a list of tokens and a heap of
// merges, some of which are out of date when their turn comes.
void Bpe::merge(std::vector<uint32_t> &tokens, size_t begin) const {
    struct Candidate {
        uint32_t rank, at, id;
        bool operator<(const Candidate &other) const {
            return rank != other.rank ? rank > other.rank : at > other.at; // the heap's top is its greatest
        }
    };
    const auto count = static_cast<uint32_t>(tokens.size() - begin);
    uint32_t *token = tokens.data() + begin;
    std::vector<uint32_t> next(count), previous(count);
    std::vector<bool> gone(count);
    std::priority_queue<Candidate> heap;
    const auto consider = [&](uint32_t at) {
        if (at == kNone || next[at] == kNone) return;
        if (const Merge *merge = find(token[at], token[next[at]])) heap.push({merge->rank, at, merge->id});
    };
    for (uint32_t i = 0; i < count; i++) {
        previous[i] = i ? i - 1 : kNone;
        next[i] = i + 1 < count ? i + 1 : kNone;
    }
    for (uint32_t i = 0; i < count; i++) consider(i);
    while (!heap.empty()) {
        const Candidate best = heap.top();
        heap.pop();
        if (gone[best.at] || next[best.at] == kNone) continue;
        const Merge *now = find(token[best.at], token[next[best.at]]);
        if (!now || now->id != best.id) continue;
        const uint32_t joined = next[best.at];
        token[best.at] = best.id;
        gone[joined] = true;
        next[best.at] = next[joined];
        if (next[joined] != kNone) previous[next[joined]] = best.at;
        consider(previous[best.at]);
        consider(best.at);
    }
    size_t kept = begin;
    for (uint32_t i = 0; i < count; i++)
        if (!gone[i]) tokens[kept++] = token[i];
    tokens.resize(kept);
}

} // namespace ml
