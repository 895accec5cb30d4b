#include "format/utf8.h"

namespace ml {

Character character_at(std::string_view text, size_t at) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[at + i]); };
    const uint8_t lead = byte(0);
    if (lead < 0x80) return {lead, 1, true};
    const uint32_t length = lead >= 0xC2 && lead < 0xE0   ? 2
                            : lead >= 0xE0 && lead < 0xF0 ? 3
                            : lead >= 0xF0 && lead < 0xF5 ? 4
                                                          : 0;
    if (length == 0) return {};
    uint32_t code = lead & (0xFFu >> (length + 1));
    for (uint32_t i = 1; i < length; i++) {
        if (at + i >= text.size() || (byte(i) & 0xC0) != 0x80) return {kReplacement, i, false};
        // The second byte rules out longer forms than needed, surrogates and what lies beyond U+10FFFF.
        if (i == 1 && ((lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xED && byte(1) >= 0xA0) ||
                       (lead == 0xF0 && byte(1) < 0x90) || (lead == 0xF4 && byte(1) >= 0x90)))
            return {};
        code = code << 6 | (byte(i) & 0x3Fu);
    }
    return {code, length, true};
}

void append_utf8(std::string &out, uint32_t code) {
    const auto tail = [&](int shift) { out += static_cast<char>(0x80 | (code >> shift & 0x3F)); };
    if (code < 0x80) {
        out += static_cast<char>(code);
    } else if (code < 0x800) {
        out += static_cast<char>(0xC0 | code >> 6);
        tail(0);
    } else if (code < 0x10000) {
        out += static_cast<char>(0xE0 | code >> 12);
        tail(6);
        tail(0);
    } else {
        out += static_cast<char>(0xF0 | code >> 18);
        tail(12);
        tail(6);
        tail(0);
    }
}

bool is_utf8(std::string_view text) {
    for (size_t at = 0; at < text.size();) {
        const Character c = character_at(text, at);
        if (!c.valid) return false;
        at += c.bytes;
    }
    return true;
}

std::string lossy_utf8(std::string_view bytes) {
    std::string out;
    out.reserve(bytes.size());
    for (size_t at = 0; at < bytes.size();) {
        const Character c = character_at(bytes, at);
        append_utf8(out, c.code);
        at += c.bytes;
    }
    return out;
}

} // namespace ml
