#include "format/json.h"

#include <algorithm>
#include <cmath>
#include <locale.h>
#include <stdlib.h>

#include "error.h"
#include "format/utf8.h"

namespace ml {
namespace {

double plain_double(const std::string &text) {
    static const locale_t plain = newlocale(LC_ALL_MASK, "C", nullptr); // a process's own may read a comma
    return strtod_l(text.c_str(), nullptr, plain);
}

} // namespace

class JsonReader {
public:
    explicit JsonReader(std::string_view text) : text_(text) {}

    Json document() {
        Json value = read(0);
        skip_space();
        check(at_ == text_.size(), "has text behind its end");
        return value;
    }

private:
    static constexpr int kMaxDepth = 32;
    static constexpr uint32_t kMaxValues = 1000000; // a value takes 128 bytes of memory, and as few as 2 of text

    void check(bool holds, const char *what) const { require(holds, "JSON metadata ", what, " at byte ", at_); }
    void skip_space() {
        while (at_ < text_.size() &&
               (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r'))
            at_++;
    }
    char next() {
        check(at_ < text_.size(), "ends too early");
        return text_[at_++];
    }
    bool take(char wanted) {
        skip_space();
        if (at_ < text_.size() && text_[at_] == wanted) return ++at_, true;
        return false;
    }
    void word(std::string_view wanted) {
        check(text_.substr(at_, wanted.size()) == wanted, "has an unknown word");
        at_ += wanted.size();
    }

    Json read(int depth) {
        check(depth < kMaxDepth, "is nested too deep");
        check(values_++ < kMaxValues, "holds more than a million values");
        skip_space();
        check(at_ < text_.size(), "ends too early");
        Json value;
        const char first = text_[at_];
        if (first == '{') {
            read_object(value, depth);
        } else if (first == '[') {
            read_array(value, depth);
        } else if (first == '"') {
            value.kind_ = Json::Kind::string;
            value.string_ = read_string();
        } else if (first == 't' || first == 'f') {
            value.kind_ = Json::Kind::boolean;
            value.boolean_ = first == 't';
            word(first == 't' ? "true" : "false");
        } else if (first == 'n') {
            word("null");
        } else {
            value.kind_ = Json::Kind::number;
            const size_t begin = at_;
            value.number_ = read_number();
            value.string_ = text_.substr(begin, at_ - begin);
        }
        return value;
    }

    void read_object(Json &value, int depth) {
        value.kind_ = Json::Kind::object;
        at_++;
        if (take('}')) return;
        do {
            skip_space();
            std::string key = read_string();
            check(take(':'), "lacks a colon");
            check(value.object_.emplace(std::move(key), read(depth + 1)).second, "repeats a key");
        } while (take(','));
        check(take('}'), "lacks a closing brace");
    }

    void read_array(Json &value, int depth) {
        value.kind_ = Json::Kind::array;
        at_++;
        if (take(']')) return;
        do value.array_.push_back(read(depth + 1));
        while (take(','));
        check(take(']'), "lacks a closing bracket");
    }

    // The grammar first, then the conversion: no conversion function is as strict as JSON, and std::from_chars of
    // floating point is missing in the libraries of older compilers and phones.
    double read_number() {
        const size_t begin = at_;
        const auto digit = [&] { return at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; };
        const auto skip = [&](char c) { return at_ < text_.size() && text_[at_] == c ? ++at_, true : false; };
        const auto digits = [&] {
            check(digit(), "has a malformed number");
            while (digit()) at_++;
        };
        skip('-');
        if (skip('0')) {
            check(!digit(), "has a malformed number");
        } else {
            digits();
        }
        if (skip('.')) digits();
        if (skip('e') || skip('E')) {
            if (!skip('+')) skip('-');
            digits();
        }
        const double number = plain_double(std::string(text_.substr(begin, at_ - begin)));
        check(std::isfinite(number), "has a number out of range");
        return number;
    }

    unsigned read_hex() {
        unsigned code = 0;
        for (int i = 0; i < 4; i++) {
            const char c = next();
            const int digit = c >= '0' && c <= '9'   ? c - '0'
                              : c >= 'a' && c <= 'f' ? c - 'a' + 10
                              : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                     : -1;
            check(digit >= 0, "has a malformed escape");
            code = code * 16 + static_cast<unsigned>(digit);
        }
        return code;
    }

    std::string read_string() {
        check(next() == '"', "lacks a quote");
        std::string out;
        for (char c = next(); c != '"'; c = next()) {
            if (c != '\\') {
                check(static_cast<unsigned char>(c) >= 0x20, "has a control character in a string");
                out += c;
                continue;
            }
            switch (const char escape = next()) {
            case '"':
            case '\\':
            case '/': out += escape; break;
            case 'b': out += '\b'; break;
            case 'f': out += '\f'; break;
            case 'n': out += '\n'; break;
            case 'r': out += '\r'; break;
            case 't': out += '\t'; break;
            case 'u': {
                unsigned code = read_hex();
                if (code >= 0xD800 && code < 0xDC00) {
                    check(next() == '\\' && next() == 'u', "has half a surrogate pair");
                    const unsigned low = read_hex();
                    check(low >= 0xDC00 && low < 0xE000, "has half a surrogate pair");
                    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                } else {
                    check(code < 0xDC00 || code >= 0xE000, "has half a surrogate pair");
                }
                append_utf8(out, code);
                break;
            }
            default: check(false, "has a malformed escape");
            }
        }
        return out;
    }

    std::string_view text_;
    size_t at_ = 0;
    uint32_t values_ = 0;
};

Json Json::parse(std::string_view text) { return JsonReader(text).document(); }

bool Json::boolean(const std::string &where) const {
    require(kind_ == Kind::boolean, where, " is not true or false");
    return boolean_;
}
double Json::number(const std::string &where) const {
    require(kind_ == Kind::number, where, " is not a number");
    return number_;
}
double Json::plain_number(const std::string &where) const {
    number(where);
    uint64_t digits = 0;
    int64_t exponent = 0;
    bool full = false, fraction = false;
    const char *c = string_.c_str();
    const bool negative = *c == '-';
    for (c += negative; *c && *c != 'e' && *c != 'E'; c++) {
        if (*c == '.') {
            fraction = true;
            continue;
        }
        const auto digit = static_cast<uint64_t>(*c - '0');
        full = full || digits > (UINT64_MAX - digit) / 10;
        if (!full) digits = digits * 10 + digit;
        exponent += (full && !fraction) - (!full && fraction);
    }
    // Beyond this, all is zero or out of range.
    if (*c) exponent += std::max(-1000000L, std::min(1000000L, strtol(c + 1, nullptr, 10)));
    auto value = static_cast<double>(digits);
    for (; exponent < -308 && value != 0; exponent += 308) value /= 1e308;
    const double power = plain_double("1e" + std::to_string(std::min<int64_t>(std::llabs(exponent), 308)));
    value = exponent < 0 ? value / power : value * power;
    require(std::isfinite(value), where, " is out of range");
    return negative ? -value : value;
}
uint64_t Json::whole(const std::string &where, uint64_t least, uint64_t most) const {
    const double value = number(where);
    const bool is_whole = value == std::floor(value);
    require(is_whole && value >= static_cast<double>(least) && value <= static_cast<double>(most), where, " is ",
            is_whole && std::fabs(value) < 1e15 ? text(static_cast<int64_t>(value)) : text(value),
            " where a whole number from ", least, " to ", most, " was expected");
    return static_cast<uint64_t>(value);
}
const std::string &Json::string(const std::string &where) const {
    require(kind_ == Kind::string, where, " is not a string");
    return string_;
}
const std::vector<Json> &Json::array(const std::string &where) const {
    require(kind_ == Kind::array, where, " is not a list");
    return array_;
}
const std::map<std::string, Json> &Json::object(const std::string &where) const {
    require(kind_ == Kind::object, where, " is not an object");
    return object_;
}
bool Json::has(const std::string &key) const { return kind_ == Kind::object && object_.count(key) != 0; }
bool Json::absent(const std::string &key) const { return !has(key) || at(key).kind() == Kind::null; }
const Json &Json::at(const std::string &key) const {
    const auto &members = object("the parent of " + key);
    const auto found = members.find(key);
    require(found != members.end(), "the field ", key, " is missing");
    return found->second;
}

} // namespace ml
