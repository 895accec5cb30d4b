#include "artifact.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <set>
#include <sys/stat.h>

#include "error.h"
#include "mobileloop.h"

namespace ml {
namespace {

constexpr uint64_t kMaxHeader = 100u << 20; // the safetensors limit
constexpr uint64_t kMaxBytes = uint64_t{1} << 48;

std::string read_header(const std::string &path, uint64_t &file_bytes) {
    const std::unique_ptr<FILE, int (*)(FILE *)> file(std::fopen(path.c_str(), "rb"), std::fclose);
    require(file != nullptr, path, " cannot be opened: ", std::strerror(errno));
    struct stat status{};
    require(fstat(fileno(file.get()), &status) == 0 && S_ISREG(status.st_mode), path, " is not a regular file");
    file_bytes = static_cast<uint64_t>(status.st_size);
    uint64_t size = 0;
    require(std::fread(&size, 8, 1, file.get()) == 1 && size <= kMaxHeader && size <= file_bytes - 8, path,
            " is cut short, or no safetensors file");
    std::string header(size, '\0');
    require(size == 0 || std::fread(header.data(), size, 1, file.get()) == 1, path, " cannot be read to its end");
    return header;
}

} // namespace

uint32_t StageInfo::loops_for(uint32_t requested) const {
    return requested == 0 || max_loops == 1 ? loops : std::min(requested, max_loops);
}

ArtifactInfo::ArtifactInfo(const std::string &file_path) : path(file_path), label(path.substr(path.rfind('/') + 1)) {
    const Json header = Json::parse(read_header(path, file_bytes));
    require(header.has("__metadata__") && header.at("__metadata__").has("mobileloop"), path,
            " holds no mobileloop metadata, so it is a checkpoint and not an artifact; export it first");
    try {
        read(Json::parse(header.at("__metadata__").at("mobileloop").string("the mobileloop metadata")));
    } catch (const Error &error) {
        throw Error(text(path, ": ", error.what()));
    }
}

void ArtifactInfo::read(const Json &info) {
    const Json &config = info.at("config"), &costs = info.at("costs");
    const auto whole = [](const Json &of, const char *key, uint64_t least, uint64_t most) {
        return of.at(key).whole(key, least, most);
    };
    format_version = whole(info, "format_version", 1, 1u << 30);
    for (const auto &[to, key] : {std::pair{&tool_version, "tool_version"},
                                  {&quantization, "quantization"},
                                  {&source, "source"},
                                  {&source_sha256, "source_sha256"}})
        *to = info.at(key).string(key);
    for (const auto &[to, key] : {std::pair{&family, "family"}, {&name, "name"}, {&rope_pairing, "rope_pairing"}})
        *to = config.at(key).string(key);
    vocab_size = whole(config, "vocab_size", 1, 1u << 24);
    hidden_size = whole(config, "hidden_size", 1, 1u << 20);
    intermediate_size = whole(config, "intermediate_size", 1, 1u << 22);
    for (const auto &[to, key] : {std::pair{&num_blocks, "num_blocks"},
                                  {&num_heads, "num_heads"},
                                  {&num_kv_heads, "num_kv_heads"},
                                  {&head_dim, "head_dim"}})
        *to = whole(config, key, 1, 4096);
    max_position = whole(config, "max_position", 1, 1u << 30);
    context = whole(info, "context", 1, 1u << 20);
    if (info.has("kv_bits")) kv_bits = whole(info, "kv_bits", 8, 32);
    require(kv_slot_token_bytes() > 0, "kv_bits is ", kv_bits, " where 8, 16 or 32 was expected");
    rms_norm_eps = config.at("rms_norm_eps").number("rms_norm_eps");
    rope_theta = config.at("rope_theta").number("rope_theta");
    tie_embeddings = config.at("tie_embeddings").boolean("tie_embeddings");
    exit_gate = config.has("exit_gate") && config.at("exit_gate").boolean("exit_gate");
    random_weights = config.at("random_weights").boolean("random_weights");
    read_stages(info.at("schedule"));
    for (const Json &bytes : costs.at("block_bytes").array("block_bytes"))
        block_bytes.push_back(bytes.whole("block_bytes", 0, kMaxBytes));
    require(block_bytes.size() == num_blocks, "costs name ", block_bytes.size(), " blocks, the config ", num_blocks);
    head_bytes = whole(costs, "head_bytes", 0, kMaxBytes);
    embedding_row_bytes = whole(costs, "embedding_row_bytes", 0, kMaxBytes);
    weight_bytes = whole(costs, "weight_bytes", 0, kMaxBytes);
    if (info.has("tokenizer")) tokenizer = info.at("tokenizer");
}

void ArtifactInfo::read_stages(const Json &schedule) {
    schedule_name = schedule.at("name").string("the schedule's name");
    for (const Json &stage : schedule.at("stages").array("schedule.stages")) {
        StageInfo one;
        for (const Json &block : stage.at("blocks").array("blocks"))
            one.blocks.push_back(static_cast<uint32_t>(block.whole("a stage's block", 0, num_blocks - 1)));
        one.max_loops = static_cast<uint32_t>(stage.at("max_loops").whole("max_loops", 1, 1024));
        one.loops = static_cast<uint32_t>(stage.at("loops").whole("loops", 1, one.max_loops));
        one.damping = stage.at("damping").number("damping");
        one.loop_end_norm = stage.at("loop_end_norm").boolean("loop_end_norm");
        const Json &halting = stage.at("halting");
        one.halting_rule = halting.at("rule").string("halting rule");
        one.halting_threshold = halting.at("threshold").number("halting threshold");
        if (halting.has("min_loops")) one.halting_min_loops = halting.at("min_loops").whole("min_loops", 1, 1024);
        stages.push_back(std::move(one));
    }
    require(!stages.empty(), "the schedule has no stages");
}

uint32_t ArtifactInfo::max_loops() const {
    uint32_t most = 1;
    for (const StageInfo &stage : stages) most = std::max(most, stage.max_loops);
    return most;
}

uint32_t ArtifactInfo::default_loops() const {
    uint32_t most = 1;
    for (const StageInfo &stage : stages) most = std::max(most, stage.loops);
    return most;
}

uint64_t ArtifactInfo::num_slots() const {
    uint64_t slots = 0;
    for (const StageInfo &stage : stages) slots += stage.blocks.size() * stage.max_loops;
    return slots;
}

uint64_t ArtifactInfo::applications(uint32_t loops) const {
    uint64_t count = 0;
    for (const StageInfo &stage : stages) count += stage.blocks.size() * stage.loops_for(loops);
    return count;
}

bool ArtifactInfo::may_halt(uint32_t loops) const {
    return std::any_of(stages.begin(), stages.end(), [&](const StageInfo &stage) { return stage.may_halt(loops); });
}

uint64_t ArtifactInfo::num_parameters() const {
    const uint64_t query = num_heads * head_dim, kv = num_kv_heads * head_dim;
    const uint64_t block = hidden_size * (2 * query + 2 * kv + 3 * intermediate_size + 2);
    return num_blocks * block + (tie_embeddings ? 1 : 2) * vocab_size * hidden_size + hidden_size +
           (exit_gate ? hidden_size + 1 : 0);
}

uint64_t ArtifactInfo::unique_bytes() const {
    std::set<uint32_t> used;
    for (const StageInfo &stage : stages) used.insert(stage.blocks.begin(), stage.blocks.end());
    uint64_t bytes = head_bytes + embedding_row_bytes;
    for (const uint32_t block : used) bytes += block_bytes[block];
    return bytes;
}

uint64_t ArtifactInfo::executed_bytes(uint32_t loops) const {
    uint64_t bytes = head_bytes + embedding_row_bytes;
    for (const StageInfo &stage : stages)
        for (const uint32_t block : stage.blocks) bytes += stage.loops_for(loops) * block_bytes[block];
    return bytes;
}

uint64_t ArtifactInfo::kv_bytes(uint64_t position, uint32_t loops) const {
    return applications(loops) * kv_slot_token_bytes() * (position + 1);
}

uint64_t ArtifactInfo::kv_slot_token_bytes() const {
    return 2 * num_kv_heads * ml_kv_vector_bytes(static_cast<uint32_t>(kv_bits), static_cast<uint32_t>(head_dim));
}

uint64_t ArtifactInfo::kv_capacity_bytes() const { return num_slots() * kv_slot_token_bytes() * context; }

uint64_t ArtifactInfo::activation_bytes(uint32_t loops) const {
    const uint64_t query = num_heads * head_dim, kv = num_kv_heads * head_dim;
    const uint64_t per_application = 3 * hidden_size + 2 * query + 2 * kv + 3 * intermediate_size;
    return 2 * 4 * (applications(loops) * per_application + 2 * hidden_size + vocab_size);
}

} // namespace ml
