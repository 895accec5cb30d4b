#include "tokenizer/charsmap.h"

#include "error.h"
#include "tokenizer/unicode.h"

namespace ml {
namespace {

constexpr const char *kDamaged = "the tokenizer's normalizer Precompiled is damaged: its character map ";

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
    const std::string bytes =
        bytes_of_base64(base64, "the tokenizer's normalizer Precompiled is damaged: its character "
                                "map is not base64");
    require(trie_.read(bytes, texts_) && !trie_.units.empty(), kDamaged, "is cut short");
    require(is_utf8(texts_), kDamaged, "holds text that is not UTF-8");
}

uint32_t Charsmap::unit(size_t at) const {
    require(at < trie_.units.size(), kDamaged, "leads outside itself");
    return trie_.units[at];
}

bool Charsmap::find(std::string_view part, std::string_view &replacement) const {
    size_t at = DoubleArray::offset(trie_.units[0]);
    for (const char c : part) {
        const auto byte = static_cast<uint8_t>(c);
        if (!byte) return false;
        at ^= byte;
        const uint32_t node = unit(at);
        if (DoubleArray::label(node) != byte) return false;
        at ^= DoubleArray::offset(node);
        if (!(node & DoubleArray::kLeaf)) continue;
        const size_t begin = DoubleArray::value(unit(at)), end = texts_.find('\0', begin);
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
