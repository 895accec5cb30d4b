// The character classes that tokenizers split by.
#pragma once

#include <cstdint>
#include <string_view>

#include "format/utf8.h"

namespace ml {

bool is_letter(uint32_t code);
bool is_number(uint32_t code);
bool is_space(uint32_t code);
bool is_digit(uint32_t code);
bool is_word(uint32_t code);
bool is_mark(uint32_t code); // what goes where accents are stripped
// Where the grapheme cluster that begins at `at` ends.
size_t cluster_end(std::string_view text, size_t at);

} // namespace ml
