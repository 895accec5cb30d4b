// An artifact in memory: a mapped safetensors file, its metadata and its records.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "mobileloop.h"

namespace ml {

class Json;

// A whole file, mapped read-only: its pages are clean and shared, never anonymous memory.
class MappedFile {
public:
    explicit MappedFile(const std::string &path);
    ~MappedFile();
    MappedFile(const MappedFile &) = delete;
    MappedFile &operator=(const MappedFile &) = delete;
    const uint8_t *data() const { return data_; }
    uint64_t size() const { return size_; }

private:
    const uint8_t *data_ = nullptr;
    uint64_t size_ = 0;
};

struct StageSpec {
    std::vector<uint32_t> blocks;
    uint32_t loops = 1, max_loops = 1, first_slot = 0;
    double damping = 1;
    bool loop_end_norm = false, causal = true;
    ml_halting halting{}; // with the model's gate
    uint32_t num_slots() const { return static_cast<uint32_t>(blocks.size()) * max_loops; }
    // Loops that it runs where `asked` are asked for (0: its own count); a stage bounded below runs as often as it may.
    uint32_t loops_for(uint32_t asked) const {
        return asked == 0 || max_loops == 1 ? loops : std::min(asked, max_loops);
    }
};

// As metadata spells an ml_halting_rule.
const char *halting_rule_name(uint32_t rule);

struct Model {
    // Everything is checked before anything is used. What the metadata says beside goes to `metadata`, if it is asked
    // for.
    explicit Model(const std::string &path, Json *metadata = nullptr);

    uint32_t hidden_size = 0, vocab_size = 0, num_blocks = 0, kv_heads = 0, head_dim = 0;
    uint32_t context = 0, num_slots = 0, max_loops = 1;
    float eps = 0;
    bool tie_embeddings = false; // the embedding is the head
    ml_kv_type kv_type = ML_KV_F16;
    std::vector<StageSpec> stages;
    std::vector<ml_record> blocks;
    uint64_t file_bytes = 0;
    ml_record embedding{}, head{};
    const float *final_norm = nullptr; // [hidden]
    bool has_exit_gate = false;
    const float *exit_gate = nullptr; // [hidden]
    float exit_gate_bias = 0;

    // A rule with this model's gate. Throws where the rule is out of bounds, or asks for a gate that is not there.
    ml_halting with_gate(ml_halting halting) const;

private:
    void read_metadata(const Json &info);
    void read_stage(const Json &stage, const std::string &where);
    void read_tensors(const Json &header, uint64_t data_start);

    std::shared_ptr<const MappedFile> file_;
};

} // namespace ml

struct ml_model {
    std::shared_ptr<const ml::Model> model;
};
