#include "tokenizer/added_tokens.h"

#include <algorithm>

namespace ml {
namespace {

// Where the spaces behind a place end, or those before it, but none before `from`.
size_t spaces_end(const std::string &text, size_t at) {
    while (at < text.size() && is_space(character_at(text, at).code)) at += character_at(text, at).bytes;
    return at;
}

size_t character_before(const std::string &text, size_t at) {
    size_t begin = at - 1;
    while (begin > 0 && at - begin < 4 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) begin--;
    return begin;
}

size_t spaces_begin(const std::string &text, size_t at, size_t from) {
    while (at > from && is_space(character_at(text, character_before(text, at)).code)) at = character_before(text, at);
    return at;
}

// Python's regular expressions, which cut texts before SentencePiece's normal form, know other spaces and words.
bool is_python_space(uint32_t code) { return is_space(code) || (code >= 0x1C && code <= 0x1F); }
bool is_python_word(uint32_t code) { return code == '_' || is_letter(code) || is_number(code); }

bool is_single_word(const std::string &text, size_t begin, size_t end) {
    return (begin == 0 || !is_word(character_at(text, character_before(text, begin)).code)) &&
           (end == text.size() || !is_word(character_at(text, end).code));
}

} // namespace

AddedTokens::AddedTokens(const Json &list, const TokenModel &model, const Normalizer &normalizer) {
    if (list.kind() == Json::Kind::null) return;
    // The library numbers added tokens itself: by the vocabulary, else behind it.
    std::unordered_map<std::string, uint32_t> ids;
    uint32_t next = model.size();
    for (const Json &token : list.array("added_tokens")) {
        Added added;
        added.content = token.at("content").string("the content of an added token");
        if (added.content.empty()) continue;
        added.single_word = token.at("single_word").boolean("single_word");
        added.left = token.at("lstrip").boolean("lstrip");
        added.right = token.at("rstrip").boolean("rstrip");
        added.normalized = token.at("normalized").boolean("normalized");
        if (token.at("special").boolean("special")) special_.insert(added.content);
        const int64_t known = model.id(added.content);
        const auto [id, is_new] = ids.emplace(added.content, known >= 0 ? static_cast<uint32_t>(known) : next);
        next += is_new && known < 0;
        added.match = added.normalized ? normalizer.apply(added.content) : added.content;
        require(!added.match.empty(), "nothing is left of the added token ", added.content, " in its normal form");
        by_id_[id->second] = std::move(added);
    }
    std::unordered_set<std::string> matches[2];
    for (const auto &[id, added] : by_id_) {
        require(matches[added.normalized].insert(added.match).second, "two added tokens stand for the text '",
                added.match, "'");
        by_first_byte_[added.normalized][static_cast<uint8_t>(added.match[0])].push_back(id);
    }
    for (auto &bytes : by_first_byte_)
        for (auto &tokens : bytes)
            std::sort(tokens.begin(), tokens.end(),
                      [&](uint32_t a, uint32_t b) { return by_id_.at(a).match.size() > by_id_.at(b).match.size(); });
}

const std::string *AddedTokens::token(uint32_t id) const {
    const auto found = by_id_.find(id);
    return found == by_id_.end() ? nullptr : &found->second.match;
}

// The next token: the leftmost, and of those the longest.
std::optional<AddedTokens::Found> AddedTokens::find(const std::string &text, size_t from, bool normalized) const {
    for (; from < text.size(); from++) {
        for (const uint32_t id : by_first_byte_[normalized][static_cast<uint8_t>(text[from])]) {
            const std::string &match = by_id_.at(id).match;
            if (text.compare(from, match.size(), match) == 0) return Found{from, from + match.size(), id};
        }
    }
    return std::nullopt;
}

size_t AddedTokens::content_behind_spaces(const std::string &text, size_t at, const Added &added, Spaces &seen) const {
    if (at < seen.from || at > seen.to) {
        std::vector<size_t> begins{at}; // the content may itself begin with a space
        while (added.left && begins.back() < text.size()) {
            const Character c = character_at(text, begins.back());
            if (!is_python_space(c.code)) break;
            begins.push_back(begins.back() + c.bytes);
        }
        const auto fits = [&](size_t begin) {
            const auto word = [&](size_t place) { return is_python_word(character_at(text, place).code); };
            const size_t end = begin + added.content.size();
            return text.compare(begin, added.content.size(), added.content) == 0 &&
                   (!added.single_word ||
                    ((begin == 0 || !word(character_before(text, begin))) && (end == text.size() || !word(end))));
        };
        const auto last = std::find_if(begins.rbegin(), begins.rend(), fits);
        seen = {at, begins.back(), last == begins.rend() ? std::string::npos : *last};
    }
    return seen.content < at ? std::string::npos : seen.content;
}

std::optional<AddedTokens::Found> AddedTokens::match_at(const std::string &text, size_t at, uint32_t id,
                                                        Spaces &seen) const {
    const Added &added = by_id_.at(id);
    const size_t begin = content_behind_spaces(text, at, added, seen);
    if (begin == std::string::npos) return std::nullopt;
    size_t end = begin + added.content.size();
    while (added.right && end < text.size() && is_python_space(character_at(text, end).code))
        end += character_at(text, end).bytes;
    return Found{at, end, id};
}

std::vector<AddedTokens::Piece> AddedTokens::cut_out(const AlignedText &whole, bool normalized,
                                                     bool keeps_special) const {
    const std::string &text = whole.text();
    std::vector<Piece> pieces;
    size_t rest = 0;      // what begins here is not cut yet
    size_t spaces_to = 0; // the end of the spaces behind the last token that took them; each is looked at once
    for (size_t at = 0; const auto found = find(text, at, normalized);) {
        const Added &added = by_id_.at(found->id);
        auto [begin, end, id] = *found;
        at = end;
        if (keeps_special && is_special(added.content)) continue;
        if (added.single_word && !is_single_word(text, begin, end)) continue;
        if (added.left) begin = std::max(spaces_begin(text, begin, rest), rest);
        if (added.right) end = spaces_to = end < spaces_to ? spaces_to : spaces_end(text, end);
        // A token of spaces may lie where the one before has taken them.
        require(begin <= end, "the tokenizer finds the added token ", added.content,
                " inside another one, which the tokenizers library cannot");
        if (rest < begin) pieces.push_back({whole.slice(rest, begin), -1});
        if (begin < end) pieces.push_back({AlignedText(""), int64_t{id}});
        rest = end;
    }
    if (rest < text.size()) pieces.push_back({whole.slice(rest, text.size()), -1});
    return pieces;
}

} // namespace ml
