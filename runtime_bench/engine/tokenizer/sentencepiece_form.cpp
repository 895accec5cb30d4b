#include "tokenizer/sentencepiece_form.h"

#include <algorithm>

#include "tokenizer/steps.h"

namespace ml {
namespace {

constexpr const char *kSpaceMark = "\xE2\x96\x81";
constexpr size_t kLongestRule = 256;

size_t first_not(const std::string &text, char c) { return std::min(text.find_first_not_of(c), text.size()); }

} // namespace

SentencePieceForm::SentencePieceForm(const Json &json) {
    const std::string bytes = bytes_of_base64(json.at("charsmap").string("charsmap"),
                                              "the rules of the tokenizer's sentencepiece form are not base64");
    require(bytes.empty() || rules_.read(bytes, texts_),
            "the rules of the tokenizer's sentencepiece form are cut short");
    adds_prefix_ = json.at("add_dummy_prefix").boolean("add_dummy_prefix");
    prefix_after_tokens_ = json.at("prefix_after_tokens").boolean("prefix_after_tokens");
    removes_spaces_ = json.at("remove_extra_whitespaces").boolean("remove_extra_whitespaces");
    space_ = json.at("escape_whitespaces").boolean("escape_whitespaces") ? kSpaceMark : " ";
    for (const Json &piece : json.at("kept").array("kept")) {
        kept_.push_back(piece.string("a kept piece"));
        kept_set_.insert(kept_.back());
    }
    kept_.erase(std::remove(kept_.begin(), kept_.end(), ""), kept_.end());
    std::stable_sort(kept_.begin(), kept_.end(),
                     [](const std::string &a, const std::string &b) { return a.size() > b.size(); });
}

std::pair<size_t, size_t> SentencePieceForm::longest(std::string_view text, size_t at) const {
    const auto &units = rules_.units;
    std::pair<size_t, size_t> found{0, 0};
    size_t node = DoubleArray::offset(units[0]);
    const size_t most = std::min(kLongestRule, text.size() - at);
    for (size_t length = 1; length <= most; length++) {
        const auto byte = static_cast<uint8_t>(text[at + length - 1]);
        node ^= byte;
        if (node >= units.size() || DoubleArray::label(units[node]) != byte) break;
        const uint32_t unit = units[node];
        node ^= DoubleArray::offset(unit);
        if ((unit & DoubleArray::kLeaf) && node < units.size()) found = {length, DoubleArray::value(units[node])};
    }
    return found;
}

void SentencePieceForm::add_chunks(std::string_view text, std::vector<std::string> &out) const {
    for (size_t at = 0; at < text.size();) {
        auto [length, begin] = rules_.units.empty() ? std::pair<size_t, size_t>{0, 0} : longest(text, at);
        if (length) {
            begin = std::min(begin, texts_.size());
            out.push_back(lossy_utf8(std::string_view(texts_).substr(begin, texts_.find('\0', begin) - begin)));
        } else {
            // Behind a rule for a part of a character there may be another part, of which the first byte tells.
            const auto first = static_cast<uint8_t>(text[at]);
            length = std::min<size_t>(first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4, text.size() - at);
            out.push_back(lossy_utf8(text.substr(at, length)));
        }
        at += length;
    }
}

// The text in the parts to which rules apply: a kept piece, what a rule gives, or a character.
std::vector<std::string> SentencePieceForm::chunks_of(const std::string &text) const {
    std::vector<std::string> chunks;
    size_t from = 0;
    for (size_t at = 0; at < text.size();) {
        const auto kept = std::find_if(kept_.begin(), kept_.end(), [&](const std::string &piece) {
            return text.compare(at, piece.size(), piece) == 0;
        });
        if (kept == kept_.end()) {
            at++;
            continue;
        }
        add_chunks(std::string_view(text).substr(from, at - from), chunks);
        chunks.push_back(*kept);
        from = at += kept->size();
    }
    add_chunks(std::string_view(text).substr(from), chunks);
    return chunks;
}

std::string SentencePieceForm::applied(const std::string &text, bool first) const {
    const std::vector<std::string> chunks = chunks_of(text);
    auto chunk = chunks.begin();
    while (removes_spaces_ && chunk != chunks.end() && *chunk == " ") ++chunk;
    if (chunk == chunks.end()) return "";
    std::string whole;
    if (adds_prefix_ && (first || prefix_after_tokens_)) whole = space_;
    bool after_space = removes_spaces_;
    for (; chunk != chunks.end(); ++chunk) {
        const size_t begin = after_space ? first_not(*chunk, ' ') : 0;
        if (begin == chunk->size()) continue;
        for (size_t i = begin; i < chunk->size(); i++) {
            if ((*chunk)[i] == ' ') {
                whole += space_;
            } else {
                whole += (*chunk)[i];
            }
        }
        after_space = removes_spaces_ && chunk->back() == ' ';
    }
    while (removes_spaces_ && whole.size() >= space_.size() &&
           whole.compare(whole.size() - space_.size(), space_.size(), space_) == 0)
        whole.resize(whole.size() - space_.size());
    return whole;
}

} // namespace ml
