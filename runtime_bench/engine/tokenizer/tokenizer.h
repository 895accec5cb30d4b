// Text to tokens and back, exactly as the `tokenizers` library and `mobileloop run` do it, for what artifacts carry:
// byte-level BPE (GPT-2, SmolLM2, Llama 3, Qwen), SentencePiece BPE (Llama 2, MobileLLM) and Unigram (T5, XGLM).
// Anything else is refused by name when the tokenizer is read.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/decoder.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pieces.h"
#include "tokenizer/sentencepiece_form.h"
#include "tokenizer/token_model.h"
#include "tokenizer/unigram.h"

namespace ml {

class Tokenizer {
public:
    // `spec` is the `tokenizer` of an artifact's metadata (docs/format.md, section 2).
    explicit Tokenizer(const Json &spec);

    // Tokens of a text in UTF-8; `special` adds what the model wants around a text. Throws ml::Error for a text that
    // the library has no tokens for either.
    std::vector<uint32_t> encode(const std::string &text, bool special = true) const;
    // Tokens of one user's turn in the model's chat template, with the opening of the answer. Throws ml::Error where
    // the template does more than to put turns between fixed texts, or has no place for a system message.
    std::vector<uint32_t> chat(const std::string &prompt, const std::optional<std::string> &system) const;
    // Text of tokens, special ones and numbers without a token left out.
    std::string decode(const std::vector<uint32_t> &ids) const { return decoded(ids).text; }
    // The token of an id; null for a special one, and for a number without a token.
    const std::string *token(uint32_t id) const;
    // The text of tokens, and whether later ones may change it.
    const Decoder &decoder() const { return decoder_; }
    Decoder::Text decoded(const std::vector<uint32_t> &ids) const;

private:
    struct Turns { // what the chat template puts around them
        std::string before, between, after;
        bool trims_system = false, trims_user = false;
    };
    Tokenizer(const Json &spec, const Json &json);
    void read_turns(const Json &json);
    void read_post_processor(const Json &json);
    void encode_text(const std::string &text, bool keeps_special, std::vector<uint32_t> &ids) const;
    void encode_pieces(const std::string &text, std::vector<uint32_t> &ids) const;

    std::unique_ptr<TokenModel> model_;
    Normalizer normalizer_;
    AddedTokens added_;
    PreTokenizer pre_tokenizer_;
    Decoder decoder_;
    std::optional<SentencePieceForm> form_; // of texts, before all else
    Unigram *unigram_ = nullptr;            // the model, where it rounds as SentencePiece
    std::vector<uint32_t> before_, after_;  // special tokens around a text
    std::optional<uint32_t> bos_;
    std::optional<std::string> chat_template_;
    std::optional<Turns> turns_, system_turns_;
};

// Turns tokens into text piece by piece, holding back what a later token may still change: the pieces and the flush,
// joined, are the text of all tokens. Behind a prompt they are what the text of the prompt and all tokens has beyond
// the length of the prompt's.
class TextStream {
public:
    explicit TextStream(const Tokenizer &tokenizer, std::vector<uint32_t> behind = {});

    std::string push(uint32_t id);
    // What was held back; nothing may be pushed behind it.
    std::string flush();

private:
    std::string beyond_prompt(std::string piece);
    // How many tokens at the window's beginning do for all of it as what stands before later ones; 0 where none do.
    size_t context() const;

    const Tokenizer &tokenizer_;
    std::vector<uint32_t> ids_; // a window: decoding one token alone may differ from decoding it behind others
    std::string shown_;         // the text of the window's tokens that came out already
    size_t settled_ = 0;        // tokens of the window whose text was out when the last piece came
    size_t kept_ = 0;           // tokens of the window that stay as the context of the others; 0 where not known
    size_t skip_;               // characters of the prompt's text that are still to come
};

} // namespace ml
