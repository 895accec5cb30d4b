// `info`: what an artifact says about itself.
#include "commands.h"
#include "engine.h"
#include "format/description.h"
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
std::string manner(const StageSpec &stage) {
    std::string line = counted(stage.loops, "loop");
    if (stage.max_loops > 1) line += text(", up to ", stage.max_loops, " at run time");
    if (stage.damping != 1) line += text(", damped by ", json_number(stage.damping));
    if (stage.loop_end_norm) line += ", norm at every loop end";
    if (stage.halting.rule != ML_HALT_NONE)
        line += text(", halts by ", halting_rule_name(stage.halting.rule), " ", json_number(stage.halting.threshold));
    return line;
}

// Stages in a row that are alike but for their blocks' numbers share a line.
std::string stage_lines(const Description &about) {
    std::string lines;
    for (size_t i = 0; i < about.model.stages.size();) {
        const StageSpec &first = about.model.stages[i];
        size_t end = i + 1;
        const auto alike = [&](const StageSpec &other) {
            return first.blocks.size() == 1 && other.blocks.size() == 1 &&
                   other.blocks[0] == first.blocks[0] + (end - i) && other.loops == first.loops &&
                   other.max_loops == first.max_loops && other.damping == first.damping &&
                   other.loop_end_norm == first.loop_end_norm && other.halting.rule == first.halting.rule &&
                   other.halting.threshold == first.halting.threshold;
        };
        while (end < about.model.stages.size() && alike(about.model.stages[end])) end++;
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
    if (arguments.has("--json")) return print(described(arguments.operand()) + "\n"), 0;
    const Description about(arguments.operand());
    std::string out;
    const auto line = [&](const char *name, const std::string &value) {
        out += text(name, ":", std::string(17 - std::string(name).size() - 1, ' '), value, "\n");
    };
    line("artifact", text(about.path, " (engine, format ", about.format_version, ", ",
                          megabytes(about.model.file_bytes), ", written by mobileloop ", about.tool_version, ")"));
    line("model", text(about.name, ", ", about.model.num_blocks, " blocks of hidden ", about.model.hidden_size, ", ",
                       about.num_heads, " heads, ", about.model.kv_heads, " KV heads, ",
                       fixed(static_cast<double>(about.num_parameters()) / 1e6, 1), "M weights"));
    line("weights", about.random_weights ? std::string("random")
                                         : text(about.source, ", sha256 ", about.source_sha256.substr(0, 16)));
    line("quantization", about.quantization);
    line("schedule", text(about.schedule_name, ": ", counted(about.default_loops(), "loop"), ", up to ",
                          about.model.max_loops, " at run time"));
    out += stage_lines(about);
    line("context",
         text(about.model.context, " tokens, KV cache ", megabytes(about.kv_capacity_bytes()), " when full"));
    line("bytes per token",
         text("unique ", megabytes(about.unique_bytes()), about.may_halt(0) ? ", executed up to " : ", executed ",
              megabytes(about.executed_bytes(0)), ", KV up to ", megabytes(about.kv_bytes(about.model.context - 1, 0)),
              ", activations ", megabytes(about.activation_bytes(0))));
    line("tokenizer", about.tokenizer() ? "carried" : "none");
    print(out);
    return 0;
}

} // namespace ml
