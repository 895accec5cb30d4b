// Text to tokens and back, exactly as the `tokenizers` library and `mobileloop run` do it, for what artifacts carry:
// byte-level BPE (GPT-2, SmolLM2, Llama 3, Qwen) and SentencePiece BPE (Llama 2, MobileLLM). Anything else is refused
// by name when the tokenizer is read.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tokenizer/bpe.h"
#include "tokenizer/pieces.h"

namespace ml {

class Tokenizer {
public:
    // `spec` is the `tokenizer` of an artifact's metadata (docs/format.md, section 2).
    explicit Tokenizer(const Json &spec);

    // Tokens of a text in UTF-8; `special` adds what the model wants around a text.
    std::vector<uint32_t> encode(const std::string &text, bool special = true) const;
    // Tokens of one user's turn in the model's chat template, with the opening of the answer.
    std::vector<uint32_t> chat(const std::string &prompt, const std::optional<std::string> &system) const;
    // Text of tokens, special ones left out.
    std::string decode(const std::vector<uint32_t> &ids) const;

private:
    struct Added {
        std::string content, match; // match: what stands for it in a text
        uint32_t id = 0;
        bool special = false, normalized = false;
    };
    struct Step { // of the normalizer or of the decoder
        enum class Kind { prepend, replace, compose, byte_fallback, fuse, strip, byte_level } kind;
        std::string pattern, content;
        size_t count = 0;
    };
    struct Piece {
        std::string text;
        int64_t id = -1; // an added token; else text
    };
    void read_added(const Json &list);
    void read_normalizer(const Json &json, int depth);
    void read_post_processor(const Json &json, int depth);
    void read_decoder(const Json &json, int depth);
    std::string normalized(std::string text) const;
    std::vector<Piece> cut_out(const std::string &text, bool normalized) const;
    void decode_step(const Step &step, std::vector<std::string> &tokens) const;

    std::unique_ptr<Bpe> model_;
    std::unique_ptr<PreTokenizer> pre_tokenizer_;
    std::vector<Added> added_; // longest first
    std::vector<Step> normalizer_, decoder_;
    bool has_decoder_ = false;
    std::vector<uint32_t> before_, after_; // special tokens around a text
    std::optional<uint32_t> bos_;
    std::optional<std::string> chat_template_;
};

// Turns tokens into text piece by piece, holding back what a later token may still change.
class TextStream {
public:
    explicit TextStream(const Tokenizer &tokenizer) : tokenizer_(tokenizer) {}
    std::string push(uint32_t id);

private:
    const Tokenizer &tokenizer_;
    std::vector<uint32_t> ids_; // a window: decoding one token alone may differ from decoding it behind others
    std::string shown_;         // the text of the window's first `settled_` tokens
    size_t settled_ = 0;
};

} // namespace ml
