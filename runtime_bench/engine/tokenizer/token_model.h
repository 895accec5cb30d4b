// The model of a tokenizer: words to tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace ml {

class Json;

class TokenModel {
public:
    virtual ~TokenModel() = default;

    // Append the tokens of one word.
    virtual void encode(std::string_view word, std::vector<uint32_t> &out) const = 0;
    // The id of a token, or -1.
    virtual int64_t id(const std::string &token) const = 0;
    // The token of an id, or null.
    virtual const std::string *token(uint32_t id) const = 0;
    virtual uint32_t size() const = 0;
    // Append the tokens <0x00> to <0xFF> of the bytes of a text; false, and nothing, where one is missing.
    bool encode_bytes(std::string_view text, std::vector<uint32_t> &out) const;
};

// The `model` of a tokenizer's JSON. Throws ml::Error for what this reader does not do exactly.
std::unique_ptr<TokenModel> read_model(const Json &json);

} // namespace ml
