// What the parts of a tokenizer share when they are read from its JSON.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "error.h"
#include "format/json.h"
#include "tokenizer/unicode.h"

namespace ml {

constexpr uint64_t kMaxId = 1u << 24;

inline const std::string &one_character(const Json &object, const char *key) {
    const std::string &content = object.at(key).string(key);
    require(!content.empty() && character_at(content, 0).bytes == content.size(), key, " is not one character");
    return content;
}

inline bool flag(const Json &object, const char *key) { return !object.absent(key) && object.at(key).boolean(key); }

// Call read(part) for each part of a sequence, and of sequences inside, in their order.
template <typename Read>
void for_each_part(const Json &json, const char *list, const char *what, const Read &read, int depth = 0) {
    const std::string &type = json.at("type").string(text(what, " type"));
    if (type != "Sequence") return read(json, type);
    require(depth < 4, "the tokenizer's sequences of ", what, "s nest too deep");
    for (const Json &part : json.at(list).array(list)) for_each_part(part, list, what, read, depth + 1);
}

// What a Replace or a Split looks for: a text, or one of few regular expressions.
class Pattern {
public:
    using Parts = std::vector<std::pair<size_t, size_t>>;

    Pattern() = default;
    explicit Pattern(const Json &json) {
        if (json.has("String")) {
            text_ = json.at("String").string("String");
            require(!text_.empty(), "the tokenizer looks for an empty text");
            return;
        }
        const std::string &regex = json.at("Regex").string("Regex");
        require(knows(regex), "the tokenizer replaces or splits by the regular expression ", regex,
                ", which this program does not know");
        any_space_ = regex[0] != ' ';
        least_ = regex == " {2,}" ? 2 : 1;
    }

    static Pattern of(std::string text) {
        Pattern pattern;
        pattern.text_ = std::move(text);
        return pattern;
    }
    static bool knows(const std::string &regex) { return regex == " {2,}" || regex == " +" || regex == "\\s+"; }

    // Where it is found, from left to right.
    Parts find(const std::string &in) const {
        Parts found;
        if (!text_.empty()) {
            for (size_t at = 0; (at = in.find(text_, at)) != std::string::npos; at += text_.size())
                found.emplace_back(at, at + text_.size());
            return found;
        }
        for (size_t at = 0; at < in.size();) {
            size_t end = at, count = 0;
            Character c = character_at(in, at);
            for (; any_space_ ? is_space(c.code) : c.code == ' '; count++) {
                end += c.bytes;
                if (end >= in.size()) {
                    count++;
                    break;
                }
                c = character_at(in, end);
            }
            if (count >= least_) found.emplace_back(at, end);
            at = count ? end : at + c.bytes;
        }
        return found;
    }

private:
    std::string text_;
    bool any_space_ = false;
    size_t least_ = 1;
};

} // namespace ml
