// Cutting a text into the words that byte-pair encoding works on.
#pragma once

#include <string>
#include <vector>

#include "tokenizer/aligned_text.h"
#include "tokenizer/steps.h"

namespace ml {

// What SentencePiece does with spaces: each becomes a character, and the text begins with one.
struct Metaspace {
    enum class Scheme { always, first, never };

    // Of a pre-tokenizer or a decoder. Throws ml::Error where the two ways to say the scheme differ.
    explicit Metaspace(const Json &json);

    std::string replacement; // one character
    Scheme scheme = Scheme::always;
    bool split = true;
};

class PreTokenizer {
public:
    // The `pre_tokenizer` of a tokenizer's JSON, or null. Throws ml::Error for what this reader does not do exactly.
    explicit PreTokenizer(const Json &json);

    std::vector<std::string> split(const AlignedText &text) const;

private:
    using Parts = Pattern::Parts;
    enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };
    // The regular expressions for words in use differ in few places.
    struct Words {
        bool any_case = false;       // contractions in both cases
        bool newline_words = false;  // one character other than a line end may begin a word; else only a space
        bool spaced_numbers = false; // a space may begin a number
        size_t number_digits = 0;    // most digits of a number; 0 is any count
        bool line_ends = false;      // line ends have words of their own, and end runs of signs
    };
    struct Step {
        enum class Kind { digits, words, pattern, spaces, plain_words, prefix_space, bytes, metaspace } kind;
        bool individual = false; // digits
        Words words{};
        Pattern pattern{};
        Behavior behavior = Behavior::removed;
        bool inverted = false;
        Metaspace::Scheme scheme{}; // and of metaspace
        std::string replacement{};
        bool cuts = false;
    };
    void read(const Json &json, const std::string &type);
    void read_split(const Json &json);
    static bool known_words(const std::string &regex, Words &words);
    static void split(const Step &step, AlignedText piece, std::vector<AlignedText> &out);
    static void split_words(const AlignedText &text, const Words &words, std::vector<AlignedText> &out);
    static void split_plain_words(const AlignedText &text, std::vector<AlignedText> &out);
    static void split_digits(const AlignedText &text, bool individual, std::vector<AlignedText> &out);
    static void split_by(const AlignedText &text, const Parts &found, Behavior behavior, bool inverted,
                         std::vector<AlignedText> &out);

    std::vector<Step> steps_;
};

// The printable stand-in of each byte in byte-level vocabularies, as UTF-8, and back (-1 for other characters).
const std::string &stand_in(uint8_t byte);
int byte_of_stand_in(uint32_t code);
void to_stand_ins(AlignedText &text);

} // namespace ml
