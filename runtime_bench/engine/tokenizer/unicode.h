// UTF-8 and the character classes that tokenizers split by.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace ml {

constexpr uint32_t kReplacement = 0xFFFD;

struct Character {
    uint32_t code = kReplacement; // also for a byte that is no UTF-8
    uint32_t bytes = 1;
    bool valid = false;
};

// The character at `at`, which lies inside the text.
Character character_at(std::string_view text, size_t at);
void append_utf8(std::string &out, uint32_t code);
bool is_utf8(std::string_view text);
// Malformed sequences become U+FFFD, one for each longest prefix of a character, as everyone's decoders do.
std::string lossy_utf8(std::string_view bytes);

bool is_letter(uint32_t code);
bool is_number(uint32_t code);
bool is_space(uint32_t code);
bool is_digit(uint32_t code);
// Whether the normal form C may change a text that holds this character.
bool may_compose(uint32_t code);

} // namespace ml
