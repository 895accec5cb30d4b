// What an artifact says about itself, and what one of its tokens moves (mobileloop/spec/costs.py has the formulas).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "format/json.h"

namespace ml {

struct StageInfo {
    std::vector<uint32_t> blocks;
    uint32_t loops = 1, max_loops = 1;
    double damping = 1;
    bool loop_end_norm = false;
    std::string halting_rule;
    double halting_threshold = 0;
    uint64_t halting_min_loops = 1;
    // Whether a token may stop before its loop count.
    bool may_halt(uint32_t requested) const {
        return halting_rule != "none" && halting_min_loops < loops_for(requested);
    }
    // Loops it runs when a session asks for `requested` (0: its own count).
    uint32_t loops_for(uint32_t requested) const;
};

struct ArtifactInfo {
    // Reads the metadata of an engine artifact; the engine has its own, complete checks. Throws ml::Error.
    explicit ArtifactInfo(const std::string &path);

    std::string path, label; // label: the file's name
    uint64_t file_bytes = 0, format_version = 0;
    std::string tool_version, family, name, schedule_name, quantization, source, source_sha256;
    uint64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0, num_blocks = 0;
    uint64_t num_heads = 0, num_kv_heads = 0, head_dim = 0, max_position = 0, context = 0, kv_bits = 16;
    double rms_norm_eps = 0, rope_theta = 0;
    std::string rope_pairing;
    bool tie_embeddings = false, exit_gate = false, random_weights = false;
    std::vector<StageInfo> stages;
    std::vector<uint64_t> block_bytes;
    uint64_t head_bytes = 0, embedding_row_bytes = 0, weight_bytes = 0;
    Json tokenizer; // null where the artifact carries none

    uint32_t max_loops() const;
    uint32_t default_loops() const;
    uint64_t num_slots() const;
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

private:
    void read(const Json &info);
    void read_stages(const Json &schedule);
    uint64_t applications(uint32_t loops) const;
    uint64_t kv_slot_token_bytes() const;
};

} // namespace ml
