#include "format/model.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <iterator>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bounds.h"
#include "error.h"
#include "format/check.h"
#include "format/json.h"
#include "format/record.h"

namespace ml {
namespace {

constexpr uint64_t kFormatVersion = 3;
constexpr uint64_t kMaxOffset = uint64_t{1} << 48;

constexpr const char *kHaltingRules[] = {"none", "latent_difference", "cosine", "exit_gate"}; // by ml_halting_rule

uint32_t halting_rule(const std::string &name, const std::string &where) {
    const auto *found = std::find(std::begin(kHaltingRules), std::end(kHaltingRules), name);
    require(found != std::end(kHaltingRules), where, " asks for the halting rule '", name,
            "', which this engine does not run yet");
    return static_cast<uint32_t>(found - std::begin(kHaltingRules));
}

} // namespace

const char *halting_rule_name(uint32_t rule) { return kHaltingRules[rule]; }

MappedFile::MappedFile(const std::string &path) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    require(descriptor >= 0, path, " cannot be opened: ", std::strerror(errno));
    struct stat status{};
    const bool known = fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0;
    void *mapped =
        known ? mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_PRIVATE, descriptor, 0) : MAP_FAILED;
    const int reason = errno;
    close(descriptor);
    require(known, path, " is empty or not a regular file");
    require(mapped != MAP_FAILED, path, " cannot be mapped: ", std::strerror(reason));
#if defined(MADV_HUGEPAGE)
    // Where the file system keeps large pages (Linux 6.16 with ext4, XFS), a file that is not in the page cache yet
    // comes in by 2 MB: still clean pages of the file, with a 512th of the address translations (docs/lab-log.md).
    // Elsewhere this does nothing.
    madvise(mapped, static_cast<size_t>(status.st_size), MADV_HUGEPAGE);
#endif
    data_ = static_cast<const uint8_t *>(mapped);
    size_ = static_cast<uint64_t>(status.st_size);
}

MappedFile::~MappedFile() { munmap(const_cast<uint8_t *>(data_), size_); }

Model::Model(const std::string &path, Json *metadata) : file_(std::make_shared<MappedFile>(path)) {
    try {
        uint64_t header_size = 0;
        require(file_->size() >= 8, "the file of ", file_->size(), " bytes is cut short before its header");
        std::memcpy(&header_size, file_->data(), 8);
        require(header_size <= kMaxHeader && header_size <= file_->size() - 8, "the header claims ", header_size,
                " bytes, but the file holds ", file_->size());
        file_bytes = file_->size();
        const Json header = Json::parse({reinterpret_cast<const char *>(file_->data()) + 8, header_size});
        require(header.has("__metadata__") && header.at("__metadata__").has("mobileloop"),
                "the header has no mobileloop metadata, so this is no engine artifact");
        Json info = Json::parse(header.at("__metadata__").at("mobileloop").string("the mobileloop metadata"));
        read_metadata(info);
        read_tensors(header, 8 + header_size);
        if (metadata) *metadata = std::move(info);
    } catch (const Error &error) {
        throw Error(text(path, ": ", error.what()));
    }
}

void Model::read_metadata(const Json &info) {
    const uint64_t version = info.at("format_version").whole("format_version", 0, 1u << 30);
    require(version <= kFormatVersion, "format version ", version, " is newer than the ", kFormatVersion,
            " this engine reads; upgrade mobileloop");
    const Json &config = info.at("config");
    hidden_size = static_cast<uint32_t>(config.at("hidden_size").whole("hidden_size", 1, kMaxHidden));
    vocab_size = static_cast<uint32_t>(config.at("vocab_size").whole("vocab_size", 1, kMaxExtent));
    num_blocks = static_cast<uint32_t>(config.at("num_blocks").whole("num_blocks", 1, kMaxHeads));
    kv_heads = static_cast<uint32_t>(config.at("num_kv_heads").whole("num_kv_heads", 1, kMaxHeads));
    head_dim = static_cast<uint32_t>(config.at("head_dim").whole("head_dim", 1, kMaxHeads));
    eps = static_cast<float>(config.at("rms_norm_eps").number("rms_norm_eps"));
    require(eps > 0, "rms_norm_eps is not above 0");
    tie_embeddings = config.at("tie_embeddings").boolean("tie_embeddings");
    has_exit_gate = config.has("exit_gate") && config.at("exit_gate").boolean("exit_gate");
    context = static_cast<uint32_t>(info.at("context").whole("context", 1, kMaxContext));
    const uint64_t kv_bits = info.at("kv_bits").whole("kv_bits", 8, 32);
    require(kv_bits == 8 || kv_bits == 16 || kv_bits == 32, "kv_bits is ", kv_bits, " where 8, 16 or 32 was expected");
    kv_type = static_cast<ml_kv_type>(kv_bits);
    const auto &list = info.at("schedule").at("stages").array("schedule.stages");
    require(!list.empty(), "the schedule has no stages");
    for (size_t i = 0; i < list.size(); i++) read_stage(list[i], text("stage ", i));
}

void Model::read_stage(const Json &stage, const std::string &where) {
    StageSpec spec;
    for (const Json &block : stage.at("blocks").array(where + " blocks"))
        spec.blocks.push_back(static_cast<uint32_t>(block.whole(where + " block", 0, num_blocks - 1)));
    require(!spec.blocks.empty() && stage.at("stages").array(where + " stages").empty(), where,
            " has no blocks, or nested stages, which this engine does not run yet");
    require(spec.blocks.size() <= kMaxSlots, where, " names ", spec.blocks.size(), " blocks, more than ", kMaxSlots);
    spec.max_loops = static_cast<uint32_t>(stage.at("max_loops").whole(where + " max_loops", 1, kMaxLoops));
    spec.loops = static_cast<uint32_t>(stage.at("loops").whole(where + " loops", 1, spec.max_loops));
    spec.damping = stage.at("damping").number(where + " damping");
    require(static_cast<float>(spec.damping) > 0 && spec.damping <= 1, where, " damping is outside (0, 1]");
    spec.loop_end_norm = stage.at("loop_end_norm").boolean(where + " loop_end_norm");
    const auto only = [&](const char *field, const char *known) {
        const std::string &value = stage.at(field).string(field);
        require(value == known, where, " asks for the ", field, " '", value, "', which this engine does not run yet");
    };
    only("injection", "none");
    only("state", "h");
    const std::string &start = stage.at("start").string("start");
    require(start == "carry" || start == "embedding", where, " asks for the start '", start,
            "', which this engine does not run yet");
    require(stage.at("inject").array("inject").empty() && stage.at("low_rank").whole("low_rank", 0, 1u << 20) == 0,
            where, " asks for injected states or low-rank deltas, which this engine does not run yet");
    require(stage.at("kv_policy").at("kind").string("KV policy") == "own", where,
            " asks for a KV policy, which this engine does not run yet");
    const Json &halting = stage.at("halting");
    spec.halting.rule = halting_rule(halting.at("rule").string(where + " halting rule"), where);
    spec.halting.threshold = halting.at("threshold").number(where + " halting threshold");
    // Format 1 has no such field.
    spec.halting.min_loops =
        halting.has("min_loops")
            ? static_cast<uint32_t>(halting.at("min_loops").whole(where + " min_loops", 1, spec.max_loops))
            : 1;
    require(spec.halting.rule != ML_HALT_EXIT_GATE || spec.loop_end_norm, where,
            " has an exit gate, which reads the normed state, but no norm at its loop ends");
    require(!stage.at("noise").boolean("noise"), where, " asks for noise, which this engine does not run yet");
    spec.causal = stage.at("causal").boolean("causal");
    spec.first_slot = num_slots;
    require(num_slots + uint64_t{spec.max_loops} * spec.blocks.size() <= kMaxSlots, "the schedule needs more than ",
            kMaxSlots, " KV slots");
    num_slots += spec.num_slots();
    max_loops = std::max(max_loops, spec.max_loops);
    stages.push_back(std::move(spec));
}

void Model::read_tensors(const Json &header, uint64_t data_start) {
    const uint64_t data_bytes = file_->size() - data_start;
    const auto find = [&](const std::string &name, const char *type) -> ml_record {
        const Json &tensor = header.at(name);
        require(tensor.at("dtype").string("dtype") == type, "the tensor ", name, " is not ", type);
        const auto &offsets = tensor.at("data_offsets").array("data_offsets");
        require(offsets.size() == 2, "the tensor ", name, " has malformed offsets");
        const uint64_t begin = offsets[0].whole(name + " offset", 0, kMaxOffset);
        const uint64_t end = offsets[1].whole(name + " offset", begin, kMaxOffset);
        require(end <= data_bytes, "the tensor ", name, " ends at byte ", data_start + end, ", but the file holds ",
                file_->size(), " bytes: it is cut short; export it again");
        return {file_->data() + data_start + begin, end - begin};
    };
    for (uint32_t b = 0; b < num_blocks; b++) {
        blocks.push_back(find(text("blocks.", b), "U8"));
        const Block block = parse_block(blocks.back());
        require(block.hidden == hidden_size && block.kv_heads == kv_heads && block.head_dim == head_dim, "block ", b,
                " has other dimensions than the config");
    }
    embedding = find("embedding", "U8");
    require(header.has("head") != tie_embeddings, tie_embeddings ? "a head is stored although tie_embeddings is true"
                                                                 : "tie_embeddings is false, but no head is stored");
    head = tie_embeddings ? embedding : find("head", "U8");
    for (const ml_record &record : {embedding, head}) {
        const Matrix matrix = parse_matrix(record);
        require(matrix.rows == vocab_size && matrix.cols == hidden_size, "the embedding or head is ", matrix.rows,
                " by ", matrix.cols, " where ", vocab_size, " by ", hidden_size, " was expected");
    }
    const auto vector = [&](const std::string &name, uint64_t size) {
        const ml_record found = find(name, "F32");
        require(found.size_bytes == size * 4 && reinterpret_cast<uintptr_t>(found.data) % 4 == 0, name, " holds ",
                found.size_bytes, " bytes where ", size * 4, " were expected");
        return static_cast<const float *>(found.data);
    };
    final_norm = vector("final_norm", hidden_size);
    if (has_exit_gate) {
        exit_gate = vector("exit_gate.weight", hidden_size);
        exit_gate_bias = *vector("exit_gate.bias", 1);
    }
    for (StageSpec &stage : stages) stage.halting = with_gate(stage.halting);
}

ml_halting Model::with_gate(ml_halting halting) const {
    check_halting(halting);
    require(halting.rule != ML_HALT_EXIT_GATE || exit_gate, "the halting rule 'exit_gate' needs the weights of an exit "
                                                            "gate, which this artifact does not hold");
    halting.gate = halting.rule == ML_HALT_EXIT_GATE ? exit_gate : nullptr;
    halting.gate_bias = exit_gate_bias;
    return halting;
}

} // namespace ml
