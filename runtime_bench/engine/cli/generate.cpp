// `generate`: text from an artifact, as `mobileloop run` makes it.
#include <algorithm>
#include <memory>

#include "artifact_tokenizer.h"
#include "commands.h"
#include "engine.h"
#include "format/description.h"
#include "format/json_writer.h"
#include "measure/machine.h"
#include "sampler.h"

namespace ml {

const CommandText kGenerate{
    "generate",
    "FILE",
    "Generate text: the text goes to stdout, one line of statistics to stderr.",
    {
        {"--prompt", "TEXT", "What the text begins with.", "-p"},
        {"--tokens", "LIST", "The same as token ids, such as 1,2,3; needs no tokenizer."},
        {"--chat", nullptr, "Put the prompt into the model's chat template, if it puts turns between fixed texts."},
        {"--system", "TEXT", "System message of a chat; the template's own when not given."},
        {"--max-tokens", "N", "Most tokens to generate (default 128).", "-n"},
        {"--threads", "N", "Threads; 0, the default, takes every big core."},
        {"--loops", "N", "Applications of the looped stages; the artifact's own count when not given."},
        {"--temperature", "X", "0, the default, takes the most likely token."},
        {"--top-k", "N", "Sample from the N likeliest tokens; 0, the default, from all."},
        {"--top-p", "X", "Sample from the likeliest tokens of this total probability (default 1)."},
        {"--min-p", "X", "Sample from tokens at least this share as likely as the likeliest (default 0)."},
        {"--seed", "N", "Of the sampling (default 0)."},
        {"--json", nullptr, "Print text, tokens and statistics as one JSON document."},
    },
    "  mobileloop-engine generate smollm2.safetensors --chat --prompt \"What is the capital of France?\"\n"
    "  mobileloop-engine generate looped.safetensors -p \"Once upon a time\" -n 50 --loops 2 --threads 4\n"
    "  mobileloop-engine generate tiny.safetensors --tokens 1,2,3 --json\n",
};

namespace {

struct Generation {
    size_t prompt_tokens = 0;
    std::vector<uint64_t> tokens;
    std::string text;
    double prefill_ms = 0;
    std::vector<double> decode_ms;
    const char *stopped = "interrupted"; // or end_token, max_tokens, context
};

std::vector<int64_t> prompt_of(const Arguments &arguments, const Description &about, const Tokenizer *tokenizer) {
    std::vector<int64_t> ids;
    const auto tokens = arguments.list("--tokens", 0, about.model.vocab_size - 1);
    ids.assign(tokens.begin(), tokens.end());
    if (const auto prompt = arguments.value("--prompt")) {
        const auto system = arguments.value("--system");
        if (!is_utf8(*prompt) || !is_utf8(system.value_or(""))) throw Mistake("the prompt is not UTF-8 text");
        const auto encoded = arguments.has("--chat") ? tokenizer->chat(*prompt, system) : tokenizer->encode(*prompt);
        ids.assign(encoded.begin(), encoded.end());
    }
    if (ids.empty()) throw Mistake("the prompt is empty; give some text with --prompt");
    require(ids.size() < about.model.context, "the prompt has ", counted(ids.size(), "token"), ", and the context of ",
            about.path, " is ", about.model.context, "; shorten the prompt or export again with a larger --context");
    return ids;
}

void check(const Arguments &arguments) {
    const bool prompt = arguments.has("--prompt"), tokens = arguments.has("--tokens");
    if (prompt == tokens)
        throw Mistake(prompt ? "--prompt and --tokens exclude each other"
                             : "there is no prompt; give --prompt or --tokens");
    if (tokens && arguments.has("--chat")) throw Mistake("--chat needs --prompt");
    if (arguments.has("--system") && !arguments.has("--chat")) throw Mistake("--system needs --chat");
}

// Tokens until an end token, the most tokens or Ctrl-C; without a tokenizer the text is the tokens' numbers.
Generation generate(Session &session, const std::vector<int64_t> &prompt, size_t most, Sampler &sampler,
                    const std::vector<uint64_t> &ends, const Tokenizer *tokenizer, bool streaming) {
    Generation result;
    result.prompt_tokens = prompt.size();
    std::optional<TextStream> stream;
    if (tokenizer) stream.emplace(*tokenizer, std::vector<uint32_t>(prompt.begin(), prompt.end()));
    const auto show = [&](const std::string &piece) {
        result.text += piece;
        if (streaming && !piece.empty()) print(piece);
    };
    double start = milliseconds_now();
    const std::vector<float> *logits = &session.run(prompt);
    result.prefill_ms = milliseconds_now() - start;
    while (!stop_requested) {
        const uint32_t token = sampler.pick(*logits);
        if (std::find(ends.begin(), ends.end(), token) != ends.end()) {
            result.stopped = "end_token";
            break;
        }
        result.tokens.push_back(token);
        show(stream ? stream->push(token) : text(result.text.empty() ? "" : " ", token));
        if (result.tokens.size() >= most) {
            result.stopped = "max_tokens";
            break;
        }
        start = milliseconds_now();
        logits = &session.run({int64_t{token}});
        result.decode_ms.push_back(milliseconds_now() - start);
    }
    if (stream) show(stream->flush());
    return result;
}

struct Figures {
    double prefill_tokens_per_s;
    std::optional<double> decode_tokens_per_s, read_gbps, executed_gbps;
    std::optional<uint64_t> peak_memory_bytes;
};

Figures figures_of(const Generation &result, const Description &about, uint32_t loops) {
    Figures figures{
        1e3 * static_cast<double>(result.prompt_tokens) / result.prefill_ms, {}, {}, {}, memory_status("VmHWM")};
    if (result.decode_ms.empty()) return figures;
    const double rate = 1e3 / median(result.decode_ms);
    const uint64_t kv = about.kv_bytes(result.prompt_tokens + result.tokens.size() / 2, loops);
    figures.decode_tokens_per_s = rate;
    figures.read_gbps = static_cast<double>(about.unique_bytes() + kv) * rate / 1e9;
    if (!about.may_halt(loops))
        figures.executed_gbps = static_cast<double>(about.executed_bytes(loops) + kv) * rate / 1e9;
    return figures;
}

std::string statistics(const Figures &figures, const Generation &result, uint32_t loops, uint32_t threads) {
    const auto figure = [](const std::optional<double> &value, int digits) {
        return value ? fixed(*value, digits) : std::string("unknown");
    };
    const auto memory = figures.peak_memory_bytes;
    return text("[engine, ", counted(loops, "loop"), ", ", counted(threads, "thread"), "] prefill ",
                fixed(figures.prefill_tokens_per_s, 1), " tokens/s, decode ", figure(figures.decode_tokens_per_s, 1),
                " tokens/s, first token ", fixed(result.prefill_ms, 0), " ms, ", figure(figures.read_gbps, 1),
                " GB/s unique, ", figure(figures.executed_gbps, 1), " GB/s executed, peak memory ",
                memory ? fixed(static_cast<double>(*memory) / 1e6, 0) : "unknown", " MB");
}

} // namespace

int run_generate(const Arguments &arguments) {
    check(arguments);
    const uint64_t most = arguments.whole("--max-tokens", 128, 1, 1u << 20);
    const auto asked_threads = static_cast<uint32_t>(arguments.whole("--threads", 0, 0, 256));
    const auto asked_loops = static_cast<uint32_t>(arguments.whole("--loops", 0, 1, 1024));
    Sampler sampler({arguments.number("--temperature", 0, 0, 100),
                     static_cast<uint32_t>(arguments.whole("--top-k", 0, 0, 1u << 24)),
                     arguments.number("--top-p", 1, 1e-6, 1), arguments.number("--min-p", 0, 0, 1),
                     arguments.whole("--seed", 0, 0, INT64_MAX)});
    const bool as_json = arguments.has("--json");
    const uint32_t threads = asked_threads ? asked_threads : ml_default_threads();
    const Description about(arguments.operand());
    Session session(arguments.operand(), threads, asked_loops);
    std::unique_ptr<Tokenizer> tokenizer;
    try {
        tokenizer = read_tokenizer(about, "give the prompt with --tokens");
    } catch (const Error &error) {
        if (arguments.has("--prompt")) throw;
        std::fputs("note: tokens are shown as numbers, because the artifact has no tokenizer that this program "
                   "reads.\n",
                   stderr);
    }
    std::vector<uint64_t> ends;
    if (about.tokenizer())
        for (const Json &id : about.tokenizer()->at("eos_ids").array("eos_ids"))
            ends.push_back(id.whole("eos_ids", 0, 1u << 24));
    const std::vector<int64_t> prompt = prompt_of(arguments, about, tokenizer.get());
    if (about.random_weights)
        std::fputs("note: this artifact has random weights, so the text means nothing.\n", stderr);
    const uint64_t room = about.model.context - prompt.size();
    Generation result = generate(session, prompt, std::min(most, room), sampler, ends, tokenizer.get(), !as_json);
    const bool cut = std::string_view(result.stopped) == "max_tokens";
    if (cut && room < most) result.stopped = "context";
    const uint32_t loops = asked_loops ? asked_loops : about.default_loops();
    const Figures figures = figures_of(result, about, asked_loops);
    if (as_json) {
        print(JsonObject()
                  .add("text", result.text)
                  .add("tokens", result.tokens)
                  .add("stopped", result.stopped)
                  .add("runtime", "engine")
                  .add("details", JsonObject().add("kernels", kernels()))
                  .add("loops", loops)
                  .add("threads", threads)
                  .add("prompt_tokens", static_cast<uint64_t>(result.prompt_tokens))
                  .add("generated_tokens", static_cast<uint64_t>(result.tokens.size()))
                  .add("prefill_tokens_per_s", figures.prefill_tokens_per_s)
                  .add("decode_tokens_per_s", figures.decode_tokens_per_s)
                  .add("time_to_first_token_ms", result.prefill_ms)
                  .add("read_gbps", figures.read_gbps)
                  .add("executed_gbps", figures.executed_gbps)
                  .add("peak_memory_bytes", figures.peak_memory_bytes)
                  .str() +
              "\n");
    } else {
        print("\n");
        const std::string bound =
            room < most ? text("the context of ", counted(room, "more token")) : text("--max-tokens ", most);
        std::fputs((statistics(figures, result, loops, threads) + (cut ? ", cut at " + bound : "") + "\n").c_str(),
                   stderr);
    }
    return stop_requested ? kInterrupted : 0;
}

} // namespace ml
