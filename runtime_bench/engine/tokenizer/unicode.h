// The character classes that tokenizers split by.
#pragma once

#include <cstdint>

#include "format/utf8.h"

namespace ml {

bool is_letter(uint32_t code);
bool is_number(uint32_t code);
bool is_space(uint32_t code);
bool is_digit(uint32_t code);
// Whether the normal form C may change a text that holds this character.
bool may_compose(uint32_t code);

} // namespace ml
