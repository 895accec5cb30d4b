// Byte-pair encoding as the `tokenizers` library does it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace ml {

class Json;

class Bpe {
public:
    // The `model` of a tokenizer's JSON. Throws ml::Error for what this reader does not do exactly.
    explicit Bpe(const Json &model);

    // Append the tokens of one word; a character without a token is dropped where the model has no unknown token.
    void encode(std::string_view word, std::vector<uint32_t> &out) const;
    // The id of a token, or -1.
    int64_t id(const std::string &token) const;
    // The token of an id, or null.
    const std::string *token(uint32_t id) const;
    uint32_t size() const { return static_cast<uint32_t>(ids_.size()); }

private:
    struct Merge {
        uint32_t rank, id;
    };
    void read_merges(const Json &merges);
    void split(std::string_view word, std::vector<uint32_t> &out) const;
    void merge(std::vector<uint32_t> &tokens, size_t begin) const;
    const Merge *find(uint32_t left, uint32_t right) const;

    std::unordered_map<std::string, uint32_t> ids_;
    std::unordered_map<uint32_t, const std::string *> tokens_;
    std::unordered_map<uint64_t, Merge> merges_;
    int64_t unknown_ = -1;
    bool fuse_unknown_ = false, byte_fallback_ = false, ignore_merges_ = false;
};

} // namespace ml
