// UTF-8, read and written.
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

} // namespace ml
