#include "tokenizer/charsmap.h"

#include "error.h"
#include "tokenizer/unicode.h"

namespace ml {
namespace {

constexpr const char *kDamaged = "the tokenizer's normalizer Precompiled is damaged: its character map ";

std::string bytes_of_base64(const std::string &text) {
    std::string bytes;
    uint32_t held = 0, bits = 0;
    const size_t end = text.find_last_not_of('=') + 1;
    for (size_t i = 0; i < end; i++) {
        const char c = text[i];
        const int value = c >= 'A' && c <= 'Z'   ? c - 'A'
                          : c >= 'a' && c <= 'z' ? c - 'a' + 26
                          : c >= '0' && c <= '9' ? c - '0' + 52
                          : c == '+'             ? 62
                          : c == '/'             ? 63
                                                 : -1;
        require(value >= 0, kDamaged, "is not base64");
        held = held << 6 | static_cast<uint32_t>(value);
        bits += 6;
        if (bits < 8) continue;
        bits -= 8;
        bytes += static_cast<char>(held >> bits & 0xFF);
        held &= (1u << bits) - 1;
    }
    require(text.size() % 4 == 0 && text.size() - end < 3 && held == 0, kDamaged, "is not base64");
    return bytes;
}

uint32_t number_at(const std::string &bytes, size_t at) {
    uint32_t value = 0;
    for (size_t i = 4; i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
    return value;
}

size_t offset_of(uint32_t unit) { return static_cast<size_t>(unit >> 10) << ((unit & 1u << 9) >> 6); }

// The characters of a part and of what replaces it, as the library counts them.
void replace(std::vector<AlignedText::Change> &changes, std::string_view part, std::string_view replacement) {
    int64_t more = 0;
    for (size_t at = 0; at < part.size(); at += character_at(part, at).bytes) more--;
    for (size_t at = 0; at < replacement.size(); more++) {
        const Character c = character_at(replacement, at);
        changes.push_back({c.code, 0});
        at += c.bytes;
    }
    if (more < 0 && !changes.empty()) changes.back().count += more;
    for (int64_t i = 0; i < more; i++) changes[changes.size() - 1 - static_cast<size_t>(i)].count = 1;
}

} // namespace

Charsmap::Charsmap(const std::string &base64) {
    const std::string bytes = bytes_of_base64(base64);
    require(bytes.size() >= 4, kDamaged, "is too short");
    const size_t units = number_at(bytes, 0) / 4;
    require(units > 0 && units <= (bytes.size() - 4) / 4, kDamaged, "is cut short");
    trie_.reserve(units);
    for (size_t i = 0; i < units; i++) trie_.push_back(number_at(bytes, 4 + 4 * i));
    texts_ = bytes.substr(4 + 4 * units);
    require(is_utf8(texts_), kDamaged, "holds text that is not UTF-8");
}

uint32_t Charsmap::unit(size_t at) const {
    require(at < trie_.size(), kDamaged, "leads outside itself");
    return trie_[at];
}

bool Charsmap::find(std::string_view part, std::string_view &replacement) const {
    size_t at = offset_of(trie_[0]);
    for (const char c : part) {
        const auto byte = static_cast<uint8_t>(c);
        if (!byte) return false;
        at ^= byte;
        const uint32_t node = unit(at);
        if ((node & (1u << 31 | 0xFF)) != byte) return false;
        at ^= offset_of(node);
        if (!(node >> 8 & 1)) continue;
        const size_t begin = unit(at) & ~(1u << 31), end = texts_.find('\0', begin);
        require(begin <= texts_.size(), kDamaged, "leads outside itself");
        replacement = std::string_view(texts_).substr(begin, end - begin);
        require(is_utf8(replacement), kDamaged, "leads into a character");
        return true;
    }
    return false;
}

void Charsmap::apply(AlignedText &text) const {
    std::vector<AlignedText::Change> changes;
    std::string_view whole = text.text(), replacement;
    bool changed = false;
    for (size_t at = 0; at < whole.size();) {
        const size_t end = cluster_end(whole, at);
        const std::string_view cluster = whole.substr(at, end - at);
        if (cluster.size() < 6 && find(cluster, replacement)) {
            replace(changes, cluster, replacement);
            changed = true;
            at = end;
            continue;
        }
        while (at < end) {
            const Character c = character_at(whole, at);
            const std::string_view part = whole.substr(at, c.bytes);
            if (find(part, replacement)) {
                replace(changes, part, replacement);
                changed = true;
            } else {
                changes.push_back({c.code, 0});
            }
            at += c.bytes;
        }
    }
    if (changed) text.transform(changes);
}

} // namespace ml
