// JSON text, written in one pass; an unknown figure is null.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "format/json.h"
#include "format/utf8.h"

namespace ml {

inline std::string json_string(const std::string &value) {
    std::string out = "\"";
    for (const char c : lossy_utf8(value)) {
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (static_cast<unsigned char>(c) < 0x20) {
            char escape[8];
            std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
            out += escape;
        } else {
            out += c;
        }
    }
    return out + '"';
}

// The shortest of three lengths that reads back as the same number, with a point whatever the process's own locale has.
inline std::string json_number(double value) {
    if (!std::isfinite(value)) return "null";
    char digits[40];
    for (const int precision : {9, 15, 17}) {
        std::snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (std::strtod(digits, nullptr) == value) break;
    }
    std::string plain;
    for (const char *c = digits; *c; c++) {
        if (std::strchr("0123456789+-e", *c)) {
            plain += *c;
        } else if (plain.back() != '.') { // a separator may take several bytes
            plain += '.';
        }
    }
    return plain;
}

inline std::string to_json(const std::string &value) { return json_string(value); }
inline std::string to_json(const char *value) { return json_string(value); }
inline std::string to_json(bool value) { return value ? "true" : "false"; }
inline std::string to_json(double value) { return json_number(value); }
std::string to_json(const Json &value);
inline std::string to_json(int value) { return std::to_string(value); }
inline std::string to_json(uint32_t value) { return std::to_string(value); }
inline std::string to_json(uint64_t value) { return std::to_string(value); }
template <typename T> std::string to_json(const std::vector<T> &values);
template <typename T> std::string to_json(const std::optional<T> &value) { return value ? to_json(*value) : "null"; }
template <typename T> std::string to_json(const std::vector<T> &values) {
    std::string out;
    for (const T &value : values) out += (out.empty() ? "[" : ",") + to_json(value);
    return out.empty() ? "[]" : out + "]";
}

class JsonObject {
public:
    template <typename T> JsonObject &add(const char *key, const T &value) { return add_raw(key, to_json(value)); }
    JsonObject &add_raw(const std::string &key, const std::string &json) {
        text_ += (text_.empty() ? "{" : ",") + json_string(key) + ":" + json;
        return *this;
    }
    std::string str() const { return text_.empty() ? "{}" : text_ + "}"; }

private:
    std::string text_;
};
inline std::string to_json(const JsonObject &value) { return value.str(); }

// What was read, written again.
inline std::string to_json(const Json &value) {
    switch (value.kind()) {
    case Json::Kind::boolean: return to_json(value.boolean("a value"));
    case Json::Kind::number: return json_number(value.number("a value"));
    case Json::Kind::string: return json_string(value.string("a value"));
    case Json::Kind::array: return to_json(value.array("a value"));
    case Json::Kind::object: {
        JsonObject written;
        for (const auto &[key, member] : value.object("a value")) written.add_raw(key, to_json(member));
        return written.str();
    }
    case Json::Kind::null: break;
    }
    return "null";
}

} // namespace ml
