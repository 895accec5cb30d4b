#include "tokenizer/unicode.h"

#include <algorithm>

#include "tokenizer/unicode_tables.h"

namespace ml {
namespace {

template <size_t count> bool holds(const CodeRange (&ranges)[count], uint32_t code) {
    const CodeRange *after = std::upper_bound(
        ranges, ranges + count, code, [](uint32_t value, const CodeRange &range) { return value < range.first; });
    return after != ranges && code <= after[-1].last;
}

bool between(uint32_t code, uint32_t first, uint32_t last) { return code >= first && code <= last; }

// The parts of Hangul syllables, and whole ones.
enum class Hangul { none, lead, vowel, tail, open, closed };

Hangul hangul(uint32_t code) {
    if (between(code, 0xAC00, 0xD7A3)) return (code - 0xAC00) % 28 ? Hangul::closed : Hangul::open;
    if (between(code, 0x1100, 0x115F) || between(code, 0xA960, 0xA97C)) return Hangul::lead;
    if (between(code, 0x1160, 0x11A7) || between(code, 0xD7B0, 0xD7C6)) return Hangul::vowel;
    if (between(code, 0x11A8, 0x11FF) || between(code, 0xD7CB, 0xD7FB)) return Hangul::tail;
    return Hangul::none;
}

bool one_syllable(Hangul before, Hangul code) {
    switch (before) {
    case Hangul::lead: return code != Hangul::none && code != Hangul::tail;
    case Hangul::vowel:
    case Hangul::open: return code == Hangul::vowel || code == Hangul::tail;
    case Hangul::tail:
    case Hangul::closed: return code == Hangul::tail;
    default: return false;
    }
}

// The rules of Unicode's Standard Annex 29, but for flags: clusters are only asked for their length where they are
// shorter than the two characters of a flag.
class Cluster {
public:
    explicit Cluster(uint32_t first) { add(first); }

    bool goes_on_with(uint32_t code) const {
        if (last_ == '\r' && code == '\n') return true;
        if (holds(kControls, last_) || holds(kControls, code)) return false;
        return holds(kAttaching, code) || one_syllable(hangul(last_), hangul(code)) || holds(kPrepending, last_) ||
               (consonant_ && linker_ && holds(kConsonants, code)) || (joiner_ && holds(kPictures, code));
    }
    void add(uint32_t code) {
        joiner_ = picture_ && code == 0x200D;
        picture_ = holds(kPictures, code) || (picture_ && holds(kExtending, code));
        if (holds(kConsonants, code)) {
            consonant_ = true;
            linker_ = false;
        } else {
            const bool links = holds(kLinkers, code);
            // Between consonants and linkers a joiner may stand, and a non-joiner not.
            consonant_ = consonant_ && (links || code == 0x200D || (code != 0x200C && holds(kExtending, code)));
            linker_ = consonant_ && (linker_ || links);
        }
        last_ = code;
    }

private:
    uint32_t last_ = 0;
    bool picture_ = false, joiner_ = false, consonant_ = false, linker_ = false;
};

} // namespace

bool is_letter(uint32_t code) { return holds(kLetters, code); }
bool is_number(uint32_t code) { return holds(kNumbers, code); }
bool is_space(uint32_t code) { return holds(kSpaces, code); }
bool is_digit(uint32_t code) { return holds(kDigits, code); }
bool is_word(uint32_t code) { return holds(kWords, code); }
bool is_mark(uint32_t code) { return holds(kMarks, code); }

size_t cluster_end(std::string_view text, size_t at) {
    Character c = character_at(text, at);
    Cluster cluster(c.code);
    for (at += c.bytes; at < text.size(); at += c.bytes) {
        c = character_at(text, at);
        if (!cluster.goes_on_with(c.code)) break;
        cluster.add(c.code);
    }
    return at;
}

} // namespace ml
