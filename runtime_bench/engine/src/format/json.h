// A small strict JSON reader for untrusted metadata: bounded depth, no recursion on input size, UTF-8 passed through.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace ml {

class Json {
public:
    enum class Kind { null, boolean, number, string, array, object };

    static Json parse(std::string_view text);

    Kind kind() const { return kind_; }
    // Typed access; each throws ml::Error naming `where` when the value is of another kind.
    bool boolean(const std::string &where) const;
    double number(const std::string &where) const;
    // The same as the `tokenizers` library reads it: digits as a whole number, then a power of ten, each rounded, so
    // that the last bit may be another.
    double plain_number(const std::string &where) const;
    uint64_t whole(const std::string &where, uint64_t least, uint64_t most) const;
    const std::string &string(const std::string &where) const;
    const std::vector<Json> &array(const std::string &where) const;
    const std::map<std::string, Json> &object(const std::string &where) const;
    const Json &at(const std::string &key) const; // of an object
    bool has(const std::string &key) const;
    bool absent(const std::string &key) const; // missing, or null

private:
    friend class JsonReader;
    Kind kind_ = Kind::null;
    bool boolean_ = false;
    double number_ = 0;
    std::string string_; // of a number: its text
    std::vector<Json> array_;
    std::map<std::string, Json> object_;
};

} // namespace ml
