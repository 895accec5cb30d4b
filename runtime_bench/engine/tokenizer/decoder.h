// Tokens to text, as the `tokenizers` library's decoders do it.
#pragma once

#include <string>
#include <vector>

#include "tokenizer/steps.h"

namespace ml {

class Decoder {
public:
    struct Text {
        std::string text;
        bool open = false; // whether later tokens may still change the text of these ones
    };

    // The `decoder` of a tokenizer's JSON, or null: then there is a space between tokens. Throws ml::Error for what
    // this reader does not do exactly.
    explicit Decoder(const Json &json);

    Text decode(std::vector<std::string> tokens) const;
    // Whether the text is open behind this token, whatever comes before; decoding would only tell the same.
    bool keeps_open(const std::string &token) const;
    // Whether something is taken from the beginning of the joined text, so that a token may lose its own.
    bool strips_text() const { return strips_text_; }

private:
    struct Step {
        enum class Kind { replace, metaspace, byte_fallback, fuse, strip, byte_level } kind;
        Pattern pattern;
        std::string content;
        size_t start = 0, stop = 0;
        bool prefixed = false; // whether the first token begins with a space that was put in
    };
    static Step step_of(const Json &json, const std::string &type);
    static void apply(const Step &step, std::vector<std::string> &tokens, bool &open);

    std::vector<Step> steps_;
    bool spaced_ = false;
    bool strips_text_ = false;
    bool late_ = false; // whether a step looks at the joined text, which grows at its end
};

} // namespace ml
