#include "format/description.h"

#include <algorithm>
#include <set>

#include "bounds.h"
#include "error.h"
#include "format/check.h"
#include "format/json_writer.h"

namespace ml {
namespace {

constexpr uint64_t kMaxBytes = uint64_t{1} << 40; // of one block; times kMaxSlots applications they fit 64 bits

} // namespace

Description::Description(const std::string &file_path)
    : path(file_path), label(path.substr(path.rfind('/') + 1)), model(path, &metadata) {
    try {
        const Json &config = metadata.at("config"), &costs = metadata.at("costs");
        const auto whole = [](const Json &of, const char *key, uint64_t least, uint64_t most) {
            return of.at(key).whole(key, least, most);
        };
        format_version = whole(metadata, "format_version", 1, 1u << 30);
        for (const auto &[to, key] : {std::pair{&tool_version, "tool_version"},
                                      {&quantization, "quantization"},
                                      {&source, "source"},
                                      {&source_sha256, "source_sha256"}})
            *to = metadata.at(key).string(key);
        name = config.at("name").string("name");
        schedule_name = metadata.at("schedule").at("name").string("the schedule's name");
        intermediate_size = whole(config, "intermediate_size", 1, kMaxExtent);
        num_heads = whole(config, "num_heads", 1, kMaxHeads);
        random_weights = config.at("random_weights").boolean("random_weights");
        for (const Json &bytes : costs.at("block_bytes").array("block_bytes"))
            block_bytes.push_back(bytes.whole("block_bytes", 0, kMaxBytes));
        require(block_bytes.size() == model.num_blocks, "costs name ", block_bytes.size(), " blocks, the config ",
                model.num_blocks);
        head_bytes = whole(costs, "head_bytes", 0, kMaxBytes);
        embedding_row_bytes = whole(costs, "embedding_row_bytes", 0, kMaxBytes);
        product({model.num_slots, kv_slot_token_bytes(), model.context}); // no figure of KV bytes is larger
    } catch (const Error &error) {
        throw Error(text(path, ": ", error.what()));
    }
}

const Json *Description::tokenizer() const {
    return metadata.absent("tokenizer") ? nullptr : &metadata.at("tokenizer");
}

uint32_t Description::default_loops() const {
    uint32_t most = 1;
    for (const StageSpec &stage : model.stages) most = std::max(most, stage.loops);
    return most;
}

uint64_t Description::applications(uint32_t loops) const {
    uint64_t count = 0;
    for (const StageSpec &stage : model.stages) count += stage.blocks.size() * stage.loops_for(loops);
    return count;
}

bool Description::may_halt(uint32_t loops) const {
    return std::any_of(model.stages.begin(), model.stages.end(), [&](const StageSpec &stage) {
        return stage.halting.rule != ML_HALT_NONE && stage.halting.min_loops < stage.loops_for(loops);
    });
}

uint64_t Description::num_parameters() const {
    const uint64_t query = num_heads * model.head_dim, kv = uint64_t{model.kv_heads} * model.head_dim;
    const uint64_t hidden = model.hidden_size;
    const uint64_t block = hidden * (2 * query + 2 * kv + 3 * intermediate_size + 2);
    return model.num_blocks * block + (model.tie_embeddings ? 1 : 2) * model.vocab_size * hidden + hidden +
           (model.has_exit_gate ? hidden + 1 : 0);
}

uint64_t Description::unique_bytes() const {
    std::set<uint32_t> used;
    for (const StageSpec &stage : model.stages) used.insert(stage.blocks.begin(), stage.blocks.end());
    uint64_t bytes = head_bytes + embedding_row_bytes;
    for (const uint32_t block : used) bytes += block_bytes[block];
    return bytes;
}

uint64_t Description::executed_bytes(uint32_t loops) const {
    uint64_t bytes = head_bytes + embedding_row_bytes;
    for (const StageSpec &stage : model.stages)
        for (const uint32_t block : stage.blocks) bytes += stage.loops_for(loops) * block_bytes[block];
    return bytes;
}

uint64_t Description::kv_bytes(uint64_t position, uint32_t loops) const {
    return applications(loops) * kv_slot_token_bytes() * (position + 1);
}

uint64_t Description::kv_slot_token_bytes() const {
    return 2 * uint64_t{model.kv_heads} * kv_vector_bytes(model.kv_type, model.head_dim);
}

uint64_t Description::kv_capacity_bytes() const { return model.num_slots * kv_slot_token_bytes() * model.context; }

uint64_t Description::activation_bytes(uint32_t loops) const {
    const uint64_t query = num_heads * model.head_dim, kv = uint64_t{model.kv_heads} * model.head_dim;
    const uint64_t per_application = 3 * uint64_t{model.hidden_size} + 2 * query + 2 * kv + 3 * intermediate_size;
    return 2 * 4 * (applications(loops) * per_application + 2 * uint64_t{model.hidden_size} + model.vocab_size);
}

std::string Description::json() const {
    JsonObject told;
    for (const auto &[key, value] : metadata.object("the mobileloop metadata"))
        if (key != "tokenizer") told.add_raw(key, to_json(value));
    return told.add("num_parameters", num_parameters())
        .add("loops", default_loops())
        .add("max_loops", model.max_loops)
        .add("num_slots", model.num_slots)
        .add("unique_bytes", unique_bytes())
        .add("executed_bytes", executed_bytes(0))
        .add("kv_bytes", kv_bytes(model.context - 1, 0))
        .add("kv_capacity_bytes", kv_capacity_bytes())
        .add("activation_bytes", activation_bytes(0))
        .add("size_on_disk_bytes", model.file_bytes)
        .add("tokenizer", tokenizer() != nullptr)
        .str();
}

} // namespace ml
