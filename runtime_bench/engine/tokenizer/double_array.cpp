#include "tokenizer/double_array.h"

#include "error.h"

namespace ml {
namespace {

uint32_t number_at(const std::string &bytes, size_t at) {
    uint32_t value = 0;
    for (size_t i = 4; i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
    return value;
}

} // namespace

std::string bytes_of_base64(const std::string &lines, const char *what) {
    std::string text;
    for (const char c : lines)
        if (c != '\n') text += c;
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
        require(value >= 0, what);
        held = held << 6 | static_cast<uint32_t>(value);
        bits += 6;
        if (bits < 8) continue;
        bits -= 8;
        bytes += static_cast<char>(held >> bits & 0xFF);
        held &= (1u << bits) - 1;
    }
    require(text.size() % 4 == 0 && text.size() - end < 3 && held == 0, what);
    return bytes;
}

bool DoubleArray::read(const std::string &bytes, std::string &texts) {
    if (bytes.size() < 4) return false;
    const size_t count = number_at(bytes, 0) / 4;
    if (count > (bytes.size() - 4) / 4) return false;
    units.reserve(count);
    for (size_t i = 0; i < count; i++) units.push_back(number_at(bytes, 4 + 4 * i));
    texts = bytes.substr(4 + 4 * count);
    return true;
}

} // namespace ml
