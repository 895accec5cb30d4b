// Cutting a text into the words that byte-pair encoding works on.
#pragma once

#include <string>
#include <vector>

namespace ml {

class Json;

class PreTokenizer {
public:
    // The `pre_tokenizer` of a tokenizer's JSON. Throws ml::Error for what this reader does not do exactly.
    explicit PreTokenizer(const Json &json);

    std::vector<std::string> split(const std::string &text) const;

private:
    // The regular expressions in use differ in few places.
    struct Pattern {
        bool any_case = false;       // contractions in both cases
        bool newline_words = false;  // one character other than a line end may begin a word; else only a space
        bool spaced_numbers = false; // a space may begin a number
        size_t number_digits = 0;    // most digits of a number; 0 is any count
        bool line_ends = false;      // line ends have words of their own, and end runs of signs
    };
    struct Step {
        enum class Kind { digits, pattern, bytes } kind;
        bool individual = false, prefix_space = false;
        Pattern pattern{};
    };
    void read(const Json &json, int depth);
    static Pattern known_pattern(const std::string &regex);
    static void split_pattern(const std::string &text, const Pattern &pattern, std::vector<std::string> &out);
    static void split_digits(const std::string &text, bool individual, std::vector<std::string> &out);

    std::vector<Step> steps_;
};

// The printable stand-in of each byte in byte-level vocabularies, as UTF-8, and back (-1 for other characters).
const std::string &stand_in(uint8_t byte);
int byte_of_stand_in(uint32_t code);

} // namespace ml
