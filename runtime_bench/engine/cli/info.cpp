// `info`: what an artifact says about itself.
#include "artifact.h"
#include "commands.h"
#include "engine.h"
#include "format/json_writer.h"

namespace ml {

const CommandText kInfo{
    "info",
    "FILE",
    "Show an artifact's model, schedule, quantization and bytes per token.",
    {{"--json", nullptr, "Print one JSON document."}},
    "  mobileloop-engine info smollm2.safetensors\n",
};

namespace {

std::string megabytes(uint64_t bytes) { return fixed(static_cast<double>(bytes) / 1e6, 1) + " MB"; }

std::string block_range(const std::vector<uint32_t> &blocks) {
    for (size_t i = 1; i < blocks.size(); i++)
        if (blocks[i] != blocks[0] + i) return text(blocks.size(), " blocks from ", blocks[0]);
    return blocks.size() == 1 ? text("block ", blocks[0]) : text("blocks ", blocks.front(), "-", blocks.back());
}

// How a stage runs, without its blocks.
std::string manner(const StageInfo &stage) {
    std::string line = counted(stage.loops, "loop");
    if (stage.max_loops > 1) line += text(", up to ", stage.max_loops, " at run time");
    if (stage.damping != 1) line += text(", damped by ", json_number(stage.damping));
    if (stage.loop_end_norm) line += ", norm at every loop end";
    if (stage.halting_rule != "none")
        line += text(", halts by ", stage.halting_rule, " ", json_number(stage.halting_threshold));
    return line;
}

std::string json(const ArtifactInfo &about) {
    std::vector<JsonObject> stages;
    for (const StageInfo &stage : about.stages)
        stages.push_back(JsonObject()
                             .add("blocks", stage.blocks)
                             .add("loops", stage.loops)
                             .add("max_loops", stage.max_loops)
                             .add("damping", stage.damping)
                             .add("loop_end_norm", stage.loop_end_norm)
                             .add("halting", JsonObject()
                                                 .add("rule", stage.halting_rule)
                                                 .add("threshold", stage.halting_threshold)
                                                 .add("min_loops", stage.halting_min_loops)));
    const JsonObject config = JsonObject()
                                  .add("family", about.family)
                                  .add("name", about.name)
                                  .add("vocab_size", about.vocab_size)
                                  .add("hidden_size", about.hidden_size)
                                  .add("intermediate_size", about.intermediate_size)
                                  .add("num_blocks", about.num_blocks)
                                  .add("num_heads", about.num_heads)
                                  .add("num_kv_heads", about.num_kv_heads)
                                  .add("head_dim", about.head_dim)
                                  .add("rms_norm_eps", about.rms_norm_eps)
                                  .add("rope_theta", about.rope_theta)
                                  .add("rope_pairing", about.rope_pairing)
                                  .add("max_position", about.max_position)
                                  .add("tie_embeddings", about.tie_embeddings)
                                  .add("exit_gate", about.exit_gate)
                                  .add("random_weights", about.random_weights);
    const JsonObject costs = JsonObject()
                                 .add("block_bytes", about.block_bytes)
                                 .add("head_bytes", about.head_bytes)
                                 .add("embedding_row_bytes", about.embedding_row_bytes)
                                 .add("weight_bytes", about.weight_bytes);
    const uint64_t last = about.context - 1;
    return JsonObject()
        .add("format_version", about.format_version)
        .add("tool_version", about.tool_version)
        .add("config", config)
        .add("schedule", JsonObject().add("name", about.schedule_name).add("stages", stages))
        .add("quantization", about.quantization)
        .add("context", about.context)
        .add("kv_bits", about.kv_bits)
        .add("source", about.source)
        .add("source_sha256", about.source_sha256)
        .add("costs", costs)
        .add("num_parameters", about.num_parameters())
        .add("loops", about.default_loops())
        .add("max_loops", about.max_loops())
        .add("unique_bytes", about.unique_bytes())
        .add("executed_bytes", about.executed_bytes(0))
        .add("kv_bytes", about.kv_bytes(last, 0))
        .add("kv_capacity_bytes", about.kv_capacity_bytes())
        .add("activation_bytes", about.activation_bytes(0))
        .add("size_on_disk_bytes", about.file_bytes)
        .add("tokenizer", about.tokenizer.kind() == Json::Kind::object)
        .str();
}

// Stages in a row that are alike but for their blocks' numbers share a line.
std::string stage_lines(const ArtifactInfo &about) {
    std::string lines;
    for (size_t i = 0; i < about.stages.size();) {
        const StageInfo &first = about.stages[i];
        size_t end = i + 1;
        const auto alike = [&](const StageInfo &other) {
            return first.blocks.size() == 1 && other.blocks.size() == 1 &&
                   other.blocks[0] == first.blocks[0] + (end - i) && other.loops == first.loops &&
                   other.max_loops == first.max_loops && other.damping == first.damping &&
                   other.loop_end_norm == first.loop_end_norm && other.halting_rule == first.halting_rule &&
                   other.halting_threshold == first.halting_threshold;
        };
        while (end < about.stages.size() && alike(about.stages[end])) end++;
        const std::string last = text(first.blocks[0] + (end - i) - 1);
        const std::string name = end - i > 1 ? text("stages ", i, "-", end - 1, ":") : text("stage ", i, ":");
        const std::string what =
            end - i > 1 ? text("blocks ", first.blocks[0], "-", last, ", one each") : block_range(first.blocks);
        lines +=
            text("  ", name, std::string(15 - std::min<size_t>(name.size(), 14), ' '), what, ", ", manner(first), "\n");
        i = end;
    }
    return lines;
}

} // namespace

int run_info(const Arguments &arguments) {
    const ArtifactInfo about(arguments.operand());
    const Session session(arguments.operand(), 1, 0); // the engine's own checks
    if (arguments.has("--json")) return print(json(about) + "\n"), 0;
    std::string out;
    const auto line = [&](const char *name, const std::string &value) {
        out += text(name, ":", std::string(17 - std::string(name).size() - 1, ' '), value, "\n");
    };
    line("artifact", text(about.path, " (engine, format ", about.format_version, ", ", megabytes(about.file_bytes),
                          ", written by mobileloop ", about.tool_version, ")"));
    line("model", text(about.name, ", ", about.num_blocks, " blocks of hidden ", about.hidden_size, ", ",
                       about.num_heads, " heads, ", about.num_kv_heads, " KV heads, ",
                       fixed(static_cast<double>(about.num_parameters()) / 1e6, 1), "M weights"));
    line("weights", about.random_weights ? std::string("random")
                                         : text(about.source, ", sha256 ", about.source_sha256.substr(0, 16)));
    line("quantization", about.quantization);
    line("schedule", text(about.schedule_name, ": ", counted(about.default_loops(), "loop"), ", up to ",
                          about.max_loops(), " at run time"));
    out += stage_lines(about);
    line("context", text(about.context, " tokens, KV cache ", megabytes(about.kv_capacity_bytes()), " when full"));
    line("bytes per token",
         text("unique ", megabytes(about.unique_bytes()), about.may_halt(0) ? ", executed up to " : ", executed ",
              megabytes(about.executed_bytes(0)), ", KV up to ", megabytes(about.kv_bytes(about.context - 1, 0)),
              ", activations ", megabytes(about.activation_bytes(0))));
    line("tokenizer", about.tokenizer.kind() == Json::Kind::object ? "carried" : "none");
    print(out);
    return 0;
}

} // namespace ml
