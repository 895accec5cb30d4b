// What an artifact says about itself, and what one of its tokens moves (mobileloop/spec/costs.py has the formulas).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "format/json.h"
#include "format/model.h"

namespace ml {

struct Description {
    // Reads and checks the artifact as whoever runs it does, and what it says of itself beside. Throws ml::Error.
    explicit Description(const std::string &path);

    std::string path, label; // label: the file's name
    Json metadata;           // config, schedule, costs and the rest, as they are written (docs/format.md)
    Model model;
    std::string name, schedule_name, quantization, source, source_sha256, tool_version;
    uint64_t format_version = 0, intermediate_size = 0, num_heads = 0;
    bool random_weights = false;
    std::vector<uint64_t> block_bytes;
    uint64_t head_bytes = 0, embedding_row_bytes = 0;

    const Json *tokenizer() const; // null where the artifact carries none
    uint32_t default_loops() const;
    uint64_t num_parameters() const;
    // Whether a token may run fewer loops than asked for.
    bool may_halt(uint32_t loops) const;
    // Weight bytes read at least once per token, and touched per token counted once per application; a token that halts
    // touches fewer.
    uint64_t unique_bytes() const;
    uint64_t executed_bytes(uint32_t loops) const;
    // KV bytes read and written by the token at `position`, from 0.
    uint64_t kv_bytes(uint64_t position, uint32_t loops) const;
    uint64_t kv_capacity_bytes() const;
    uint64_t activation_bytes(uint32_t loops) const;
    // One document: the metadata without the tokenizer, then the figures above.
    std::string json() const;

private:
    uint64_t applications(uint32_t loops) const;
    uint64_t kv_slot_token_bytes() const;
};

} // namespace ml
