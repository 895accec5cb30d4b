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

} // namespace

bool is_letter(uint32_t code) { return holds(kLetters, code); }
bool is_number(uint32_t code) { return holds(kNumbers, code); }
bool is_space(uint32_t code) { return holds(kSpaces, code); }
bool is_digit(uint32_t code) { return holds(kDigits, code); }
bool may_compose(uint32_t code) { return holds(kComposing, code); }

} // namespace ml
