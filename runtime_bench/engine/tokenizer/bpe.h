// Byte-pair encoding as the `tokenizers` library does it.
#pragma once

#include <unordered_map>

#include "tokenizer/token_model.h"

namespace ml {

class Bpe : public TokenModel {
public:
    // The `model` of a tokenizer's JSON. Throws ml::Error for what this reader does not do exactly.
    explicit Bpe(const Json &model);

    // A character without a token is dropped where the model has no unknown token.
    void encode(std::string_view word, std::vector<uint32_t> &out) const override;
    int64_t id(const std::string &token) const override;
    const std::string *token(uint32_t id) const override;
    uint32_t size() const override { return static_cast<uint32_t>(ids_.size()); }

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
    std::string missing_; // an unknown token that the vocabulary lacks
    bool fuse_unknown_ = false, byte_fallback_ = false, ignore_merges_ = false;
};

} // namespace ml
