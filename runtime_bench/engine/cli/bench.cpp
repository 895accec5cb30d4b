// `bench`: load, first token, prefill and decode by threads and loops. Every configuration runs once per round, in an
// order that is shuffled anew, every raw sample is kept, and the JSON is the document that `mobileloop report` reads
// (runtime_bench/mobileloop_bench/results/document.py has the meaning of every field).
#include <algorithm>
#include <memory>
#include <numeric>
#include <unistd.h>

#include "bounds.h"
#include "commands.h"
#include "engine.h"
#include "format/description.h"
#include "format/json_writer.h"
#include "measure/machine.h"
#include "random.h"
#include "threads/placement.h"

namespace ml {

const CommandText kBench{
    "bench",
    "FILE",
    "Measure load, first token, prefill and decode of an artifact, in interleaved rounds; the medians are printed,\n"
    "every raw sample is in the JSON document, which mobileloop report makes a page of.",
    {
        {"--threads", "LIST", "Thread counts, such as 1,2 (default: 1 and all big cores)."},
        {"--loops", "LIST", "Loop counts, such as 1,2,4 (default: the artifact's own)."},
        {"--cpus", "LIST", "Run on these cpus, such as 4-7,2: a thread on each where there are as many, else on any."},
        {"--prompt-tokens", "N", "Tokens of the prefill (default 128)."},
        {"--decode-tokens", "N", "Tokens decoded behind it, one by one (default 64)."},
        {"--repetitions", "N", "Rounds over all configurations (default 5)."},
        {"--seed", "N", "Of the tokens and of the order (default 0)."},
        {"--no-bandwidth", nullptr, "Leave out the read bandwidth, the ceiling that figures are compared with."},
        {"--json", nullptr, "Print one JSON document instead of the table."},
    },
    "  mobileloop-engine bench smollm2.safetensors\n"
    "  mobileloop-engine bench looped.safetensors --threads 1,4 --loops 1,2,4 --json > phone.json\n"
    "  mobileloop-engine bench smollm2.safetensors --threads 4 --cpus 4-7\n",
};

namespace {

constexpr uint32_t kFirstTokens = 8; // of the first_token phase
constexpr uint64_t kMib = 1u << 20;

struct Settings {
    std::vector<uint64_t> threads, loops; // loops empty: the artifact's own
    uint64_t prompt_tokens, decode_tokens, repetitions, seed;
    std::vector<uint32_t> cpus; // empty: where the engine puts its threads by itself
};

struct Bandwidth {
    uint64_t threads, size_bytes;
    std::vector<double> samples;
    double best() const { return *std::max_element(samples.begin(), samples.end()); }
};

struct Configuration {
    uint32_t threads, asked_loops, loops; // asked 0: the artifact's own
    std::vector<double> load_ms, first_token_ms, prefill_ms, decode_ms;
    double wall_s = 0, other_s = 0, stolen_s = 0;
    bool known = true; // whether the kernel tells who else ran
    std::unique_ptr<Session> session;
    std::string cpus; // that its threads kept to
};

struct Row {
    const Configuration &configuration;
    const char *phase;
    const std::vector<double> &samples;
    std::optional<double> median_ms{}, p10_ms{}, p90_ms{}, p99_ms{}, tokens_per_s{}, read_gbps{}, executed_gbps{},
        ceiling_gbps{}, loop_tax{};
    std::optional<double> ceiling_tokens_per_s{}, other_cores{}, stolen_cores{};
    std::optional<uint64_t> executed_bytes{}, kv_bytes{};
    uint64_t samples_per_round = 1, repetitions = 0, context_tokens = 0;
};

// Whole numbers in turn, by the generator of docs/random.md: the same order and tokens for the same seed.
class Numbers {
public:
    explicit Numbers(uint64_t seed) : seed_(seed) {}
    uint64_t below(uint64_t bound) {
        return static_cast<uint64_t>(uniform(seed_, position_++) * static_cast<double>(bound));
    }

private:
    uint64_t seed_, position_ = 0;
};

class Bench {
public:
    Bench(const std::string &path, Settings settings, bool with_bandwidth)
        : about_(path), settings_(std::move(settings)), machine_(probe_machine()), kernels_(kernels()),
          random_(settings_.seed) {
        plan();
        if (with_bandwidth) measure_bandwidth();
        measure();
    }
    std::string table() const;
    std::string json(const std::string &command) const;
    bool interrupted() const { return interrupted_; }

private:
    void plan();
    void measure_bandwidth();
    void measure();
    std::unique_ptr<Session> open(const Configuration &one) const;
    void load(Configuration &one);
    void evaluate(Configuration &one);
    std::vector<Row> rows() const;
    Row row(const Configuration &one, const char *phase, const std::vector<double> &samples) const;
    std::string json(const Row &row) const;
    std::vector<int64_t> tokens(uint64_t count);
    void progress(const std::string &what) const;

    Description about_;
    Settings settings_;
    Machine machine_;
    std::string kernels_;
    Numbers random_;
    std::vector<Configuration> configurations_;
    std::vector<uint64_t> skipped_; // loop counts beyond the artifact's bound
    std::vector<Bandwidth> bandwidth_;
    bool interrupted_ = false;
};

// The value below which `share` of the samples lie, between neighbours where it falls between them.
double percentile(std::vector<double> values, double share) {
    std::sort(values.begin(), values.end());
    const double place = share * static_cast<double>(values.size() - 1);
    const auto below = static_cast<size_t>(place);
    const size_t above = std::min(below + 1, values.size() - 1);
    return values[below] + (place - static_cast<double>(below)) * (values[above] - values[below]);
}

void Bench::plan() {
    const uint64_t needed = std::max<uint64_t>(settings_.prompt_tokens + settings_.decode_tokens, kFirstTokens);
    require(needed <= about_.model.context, settings_.prompt_tokens, " prompt and ", settings_.decode_tokens,
            " decode tokens do not fit the context of ", about_.model.context, " of ", about_.label,
            "; ask for fewer or export with a larger --context");
    std::vector<uint64_t> asked = settings_.loops;
    if (asked.empty()) asked.push_back(0);
    for (const uint64_t loops : asked) {
        if (loops > about_.model.max_loops) {
            skipped_.push_back(loops);
            continue;
        }
        const auto count = static_cast<uint32_t>(loops);
        for (const uint64_t threads : settings_.threads) {
            Configuration one{};
            one.threads = static_cast<uint32_t>(threads);
            one.asked_loops = count;
            one.loops = count ? count : about_.default_loops();
            one.known = true;
            configurations_.push_back(std::move(one));
        }
    }
    if (!settings_.cpus.empty())
        for (const uint64_t threads : settings_.threads)
            check_placement(static_cast<uint32_t>(threads), settings_.cpus);
    require(!configurations_.empty(), "nothing is left to measure: ", about_.label, " runs up to ",
            counted(about_.model.max_loops, "loop"));
}

// Four last-level caches, at least 256 MiB, at most 1 GiB and at most an eighth of the memory; every thread count in
// turn, so that a disturbance hits all alike; on the cpus that were chosen.
void Bench::measure_bandwidth() {
    CpuMask before;
    const bool moved = !settings_.cpus.empty() && before.read() && CpuMask::of(settings_.cpus).apply();
    uint64_t size = std::clamp(4 * machine_.last_level_cache_bytes().value_or(0), 256 * kMib, 1024 * kMib);
    if (machine_.memory_bytes) size = std::min(size, *machine_.memory_bytes / 8);
    size = std::max(size / kMib * kMib, kMib);
    for (const uint64_t threads : settings_.threads) bandwidth_.push_back({threads, size, {}});
    for (int turn = 0; turn < 3; turn++) {
        for (Bandwidth &one : bandwidth_) {
            if (stop_requested) break;
            progress(text("read bandwidth, ", counted(one.threads, "thread")));
            one.samples.push_back(bandwidth(static_cast<uint32_t>(one.threads), size, 0.3));
        }
    }
    bandwidth_.erase(
        std::remove_if(bandwidth_.begin(), bandwidth_.end(), [](const Bandwidth &one) { return one.samples.empty(); }),
        bandwidth_.end());
    if (moved) before.apply();
}

void Bench::progress(const std::string &what) const {
    if (isatty(STDERR_FILENO)) std::fprintf(stderr, "\r\033[K%s", what.c_str());
}

void Bench::measure() {
    const auto everyone = [&](const char *what, uint64_t rounds, const auto &turn) {
        for (uint64_t round = 0; round < rounds; round++) {
            std::vector<size_t> order(configurations_.size());
            std::iota(order.begin(), order.end(), size_t{0});
            for (size_t left = order.size(); left > 1; left--) std::swap(order[left - 1], order[random_.below(left)]);
            for (const size_t index : order) {
                if (stop_requested) return;
                Configuration &one = configurations_[index];
                progress(text(what, " ", round + 1, "/", rounds, ": ", counted(one.loops, "loop"), ", ",
                              counted(one.threads, "thread")));
                turn(one);
            }
        }
    };
    everyone("load", settings_.repetitions, [&](Configuration &one) { load(one); });
    everyone("warm-up", 1, [&](Configuration &one) {
        one.session = open(one);
        one.cpus = ranges(one.session->cpus());
        one.session->run(tokens(kFirstTokens));
    });
    everyone("prefill and decode", settings_.repetitions, [&](Configuration &one) { evaluate(one); });
    for (Configuration &one : configurations_) one.session.reset();
    if (isatty(STDERR_FILENO)) std::fputs("\r\033[K", stderr);
    interrupted_ = stop_requested != 0;
}

std::vector<int64_t> Bench::tokens(uint64_t count) {
    std::vector<int64_t> ids(count);
    for (int64_t &id : ids) id = static_cast<int64_t>(random_.below(about_.model.vocab_size));
    return ids;
}

std::unique_ptr<Session> Bench::open(const Configuration &one) const {
    auto session = std::make_unique<Session>(about_.path, one.threads, one.asked_loops);
    if (!settings_.cpus.empty()) session->place(settings_.cpus);
    return session;
}

void Bench::load(Configuration &one) {
    const std::vector<int64_t> first = tokens(kFirstTokens);
    const double start = milliseconds_now();
    const auto session = open(one);
    const double opened = milliseconds_now() - start;
    session->run(first);
    one.first_token_ms.push_back(milliseconds_now() - start);
    one.load_ms.push_back(opened);
}

void Bench::evaluate(Configuration &one) {
    const std::vector<int64_t> prompt = tokens(settings_.prompt_tokens), decoded = tokens(settings_.decode_tokens);
    one.session->reset();
    const auto before = busy_seconds();
    struct timespec own_start{}, own_end{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own_start);
    const double begin = milliseconds_now();
    one.session->run(prompt);
    one.prefill_ms.push_back(milliseconds_now() - begin);
    for (const int64_t token : decoded) {
        const double start = milliseconds_now();
        one.session->run({token});
        one.decode_ms.push_back(milliseconds_now() - start);
    }
    one.wall_s += (milliseconds_now() - begin) / 1e3;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own_end);
    const auto after = busy_seconds();
    one.known = one.known && before && after;
    if (!one.known) return;
    const double own = static_cast<double>(own_end.tv_sec - own_start.tv_sec) +
                       static_cast<double>(own_end.tv_nsec - own_start.tv_nsec) / 1e9;
    one.other_s += after->busy - before->busy - own;
    one.stolen_s += after->stolen - before->stolen;
}

Row Bench::row(const Configuration &one, const char *phase, const std::vector<double> &samples) const {
    Row row{one, phase, samples};
    const bool opening = phase[0] == 'l' || phase[0] == 'f', decode = phase[0] == 'd'; // load and first_token
    const uint64_t prompt = settings_.prompt_tokens, tokens = decode ? 1 : prompt;
    row.samples_per_round = decode ? settings_.decode_tokens : 1;
    row.repetitions = samples.size() / row.samples_per_round;
    row.context_tokens = prompt + (decode ? settings_.decode_tokens : 0);
    if (!about_.may_halt(one.asked_loops)) row.executed_bytes = about_.executed_bytes(one.asked_loops);
    if (!opening)
        row.kv_bytes = about_.kv_bytes(decode ? prompt + settings_.decode_tokens / 2 : prompt - 1, one.asked_loops);
    if (!opening && one.known && one.wall_s > 0) {
        row.other_cores = std::max(one.other_s, 0.0) / one.wall_s;
        row.stolen_cores = one.stolen_s / one.wall_s;
    }
    for (const Bandwidth &ceiling : bandwidth_)
        if (decode && ceiling.threads == one.threads) row.ceiling_gbps = ceiling.best();
    if (samples.empty()) return row;
    row.median_ms = median(samples);
    row.p10_ms = percentile(samples, 0.1);
    row.p90_ms = percentile(samples, 0.9);
    row.p99_ms = percentile(samples, 0.99);
    if (!opening) row.tokens_per_s = static_cast<double>(tokens) * 1000 / *row.median_ms;
    if (decode) {
        const auto gbps = [&](uint64_t bytes) {
            return static_cast<double>(bytes + *row.kv_bytes) / (*row.median_ms * 1e6);
        };
        row.read_gbps = gbps(about_.unique_bytes());
        if (row.executed_bytes) row.executed_gbps = gbps(*row.executed_bytes);
        if (row.ceiling_gbps)
            row.ceiling_tokens_per_s =
                *row.ceiling_gbps * 1e9 / static_cast<double>(about_.unique_bytes() + *row.kv_bytes);
        for (const Configuration &once : configurations_)
            if (once.loops == 1 && once.threads == one.threads && !once.decode_ms.empty())
                row.loop_tax = *row.median_ms / median(once.decode_ms);
    }
    return row;
}

std::vector<Row> Bench::rows() const {
    std::vector<Row> found;
    for (const Configuration &one : configurations_) {
        found.push_back(row(one, "load", one.load_ms));
        found.push_back(row(one, "first_token", one.first_token_ms));
        found.push_back(row(one, "prefill", one.prefill_ms));
        found.push_back(row(one, "decode", one.decode_ms));
    }
    return found;
}

std::string Bench::json(const Row &row) const {
    const Configuration &one = row.configuration;
    JsonObject details;
    details.add("kernels", kernels_);
    if (!one.cpus.empty()) details.add("cpus", one.cpus);
    return JsonObject()
        .add("artifact", about_.label)
        .add("runtime", "engine")
        .add("model", about_.name)
        .add("quantization", about_.quantization)
        .add("loops", one.loops)
        .add("threads", one.threads)
        .add("phase", row.phase)
        .add_raw("stream", "null") // it knows no modes
        .add("samples_per_round", row.samples_per_round)
        .add("samples_ms", row.samples)
        .add("median_ms", row.median_ms)
        .add("tokens_per_s", row.tokens_per_s)
        .add("unique_bytes", about_.unique_bytes())
        .add("executed_bytes", row.executed_bytes)
        .add("kv_bytes", row.kv_bytes)
        .add("read_gbps", row.read_gbps)
        .add_raw("valid", "null") // samples and no verdict: whoever reads them judges
        .add("p10_ms", row.p10_ms)
        .add("p90_ms", row.p90_ms)
        .add("p99_ms", row.p99_ms)
        .add("executed_gbps", row.executed_gbps)
        .add("ceiling_gbps", row.ceiling_gbps)
        .add("ceiling_tokens_per_s", row.ceiling_tokens_per_s)
        .add("loop_tax", row.loop_tax)
        .add("repetitions", row.repetitions)
        .add("context_tokens", row.context_tokens)
        .add("schedule", about_.schedule_name)
        .add("activation_bytes", about_.activation_bytes(one.asked_loops))
        .add("size_on_disk_bytes", about_.model.file_bytes)
        .add("random_weights", about_.random_weights)
        .add("source", about_.source)
        .add("source_sha256", about_.source_sha256)
        .add("other_cores", row.other_cores)
        .add("stolen_cores", row.stolen_cores)
        .add("details", details)
        .str();
}

std::string Bench::json(const std::string &command) const {
    std::string results;
    for (const Row &one : rows()) results += (results.empty() ? "" : ",") + json(one);
    for (const uint64_t loops : skipped_) {
        for (const uint64_t threads : settings_.threads) {
            const std::vector<std::string> reason{text("skipped: loops ", loops, " is outside 1-",
                                                       about_.model.max_loops,
                                                       ", the bound this artifact was exported for")};
            const std::optional<double> none;
            results += "," + JsonObject()
                                 .add("artifact", about_.label)
                                 .add("runtime", "engine")
                                 .add("model", about_.name)
                                 .add("quantization", about_.quantization)
                                 .add("loops", loops)
                                 .add("threads", threads)
                                 .add("phase", "decode")
                                 .add("samples_ms", std::vector<double>())
                                 .add("median_ms", none)
                                 .add("tokens_per_s", none)
                                 .add("unique_bytes", about_.unique_bytes())
                                 .add("executed_bytes", none)
                                 .add("kv_bytes", none)
                                 .add("read_gbps", none)
                                 .add_raw("valid", "null")
                                 .add("reasons", reason)
                                 .str();
        }
    }
    std::vector<JsonObject> ceilings;
    const auto cache = machine_.last_level_cache_bytes();
    for (const Bandwidth &one : bandwidth_)
        ceilings.push_back(
            JsonObject()
                .add("threads", one.threads)
                .add("size_bytes", one.size_bytes)
                .add("read_gbps", one.best())
                .add("median_gbps", median(one.samples))
                .add("samples_gbps", one.samples)
                .add("beyond_last_level_cache", cache ? std::optional(one.size_bytes > *cache) : std::nullopt));
    JsonObject settings;
    settings.add("threads", settings_.threads);
    settings.add_raw("loops", settings_.loops.empty() ? "null" : to_json(settings_.loops));
    settings.add("prompt_tokens", settings_.prompt_tokens)
        .add("decode_tokens", settings_.decode_tokens)
        .add("repetitions", settings_.repetitions)
        .add("seed", settings_.seed)
        .add_raw("cpus", settings_.cpus.empty() ? "null" : to_json(settings_.cpus))
        .add("sessions_kept", true);
    return JsonObject()
        .add("schema", "mobileloop.bench/2")
        .add_raw("machine", machine_.json(kernels_))
        .add_raw("results", "[" + results + "]")
        .add("bandwidth", ceilings)
        .add("settings", settings)
        .add("command", command)
        .add("interrupted", interrupted_)
        .str();
}

std::string Bench::table() const {
    std::string out = machine_.lines(kernels_);
    for (const Bandwidth &one : bandwidth_)
        out += text("read bandwidth:  ", fixed(one.best(), 1), " GB/s, ", counted(one.threads, "thread"), ", ",
                    one.size_bytes >> 20, " MiB\n");
    const auto cell = [](const std::optional<double> &value, int digits) {
        const std::string figure = value ? fixed(*value, digits) : "-";
        return std::string(12 - std::min<size_t>(figure.size(), 11), ' ') + figure;
    };
    out += "\nthreads  loops  phase        median ms     tokens/s  GB/s unique    executed     loop tax\n";
    for (const Row &one : rows()) {
        char left[64];
        std::snprintf(left, sizeof left, "%7u  %5u  %-11s", one.configuration.threads, one.configuration.loops,
                      one.phase);
        out += text(left, cell(one.median_ms, 3), " ", cell(one.tokens_per_s, 1), " ", cell(one.read_gbps, 2),
                    cell(one.executed_gbps, 2), " ", cell(one.loop_tax, 2), "\n");
    }
    for (const uint64_t loops : skipped_)
        out += text("skipped: ", loops, " loops, beyond the ", about_.model.max_loops, " of this artifact\n");
    return out + "\nwhether these figures count is judged by mobileloop report, from --json\n";
}

std::vector<uint64_t> without_repeats(const std::vector<uint64_t> &values) {
    std::vector<uint64_t> kept;
    for (const uint64_t value : values)
        if (std::find(kept.begin(), kept.end(), value) == kept.end()) kept.push_back(value);
    return kept;
}

} // namespace

int run_bench(const Arguments &arguments, const std::string &command) {
    Settings settings{arguments.list("--threads", 1, 256),
                      without_repeats(arguments.list("--loops", 1, 1024)),
                      arguments.whole("--prompt-tokens", 128, 1, 1u << 20),
                      arguments.whole("--decode-tokens", 64, 1, 1u << 20),
                      arguments.whole("--repetitions", 5, 1, 1u << 20),
                      arguments.whole("--seed", 0, 0, INT64_MAX),
                      arguments.ranges("--cpus", kMaxCpus - 1)};
    if (settings.threads.empty())
        settings.threads = {1, settings.cpus.empty() ? ml_default_threads() : settings.cpus.size()};
    settings.threads = without_repeats(settings.threads);
    const Bench bench(arguments.operand(), settings, !arguments.has("--no-bandwidth"));
    print(arguments.has("--json") ? bench.json(command) + "\n" : bench.table());
    return bench.interrupted() ? kInterrupted : 0;
}

} // namespace ml
