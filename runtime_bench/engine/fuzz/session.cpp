// A session over one of the corpus's own artifacts: what is called, in which order and with which numbers comes from
// the input. Positions are kept beside it and compared; a fork must give the bits of what it was made from.
#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "input.h"
#include "mobileloop.h"
#include "targets.h"

using fuzz::must;

namespace {

constexpr uint32_t kSequences = 3, kMaxOperations = 8, kMaxCount = 4;
constexpr std::array<const char *, 4> kModels = {"plain", "looped", "halting", "wide"};

struct Opened {
    ml_model *model = nullptr;
    std::array<ml_session *, 2> sessions{}; // of one thread and of two
};

// Kept: mapping a file and starting threads cost more than a run.
ml_session *session_of(uint8_t choice, Opened *&opened) {
    static std::array<Opened, kModels.size()> all;
    opened = &all[choice % all.size()];
    if (!opened->model) {
        const std::string path = std::string(ML_FUZZ_CORPUS "/artifact/") + kModels[choice % all.size()];
        must(ml_model_open(path.c_str(), &opened->model) == ML_OK, ml_last_error());
    }
    const uint32_t threads = choice < 0xF0 ? 1 : 2;
    ml_session *&session = opened->sessions[threads - 1];
    if (!session) must(ml_session_create(opened->model, threads, 0, kSequences, &session) == ML_OK, ml_last_error());
    return session;
}

class Calls {
public:
    Calls(fuzz::Input &input, ml_session *session, ml_model *model)
        : input_(input), session_(session), vocab_(ml_model_vocab_size(model)), context_(ml_model_context(model)),
          stages_(ml_model_num_stages(model)), max_loops_(ml_model_max_loops(model)) {
        must(ml_session_reset(session, 1) == ML_OK && ml_session_set_halting(session, nullptr) == ML_OK &&
                 ml_session_stream(session, ML_STREAM_OFF, 1) == ML_OK && ml_session_time(session, 0) == ML_OK,
             "a session cannot be reset");
    }

    void one() {
        switch (input_.byte() % 10) {
        case 0: return fork(input_.byte() % 4, input_.byte() % 4);
        case 1: return halting();
        case 2: return reset();
        case 3: return streaming();
        case 4: return timing();
        case 5: return twins();
        default: return run();
        }
    }

private:
    uint32_t loops() {
        const uint8_t byte = input_.byte();
        return byte < 0xF0 ? byte % (max_loops_ + 1) : byte;
    }

    void fork(uint32_t from, uint32_t to) {
        const bool good = from < kSequences && to < kSequences;
        must((ml_session_fork(session_, from, to) == ML_OK) == good, "a fork of sequences that are not there");
        if (good) positions_[to] = positions_[from];
        check_positions();
    }

    void halting() {
        ml_halting rule{};
        const uint8_t kind = input_.byte();
        rule.rule = kind % 8 == 7 ? kind : kind % 4;
        rule.min_loops = input_.byte() % 4;
        rule.threshold = static_cast<double>(input_.byte()) / 128.0;
        const bool own = input_.byte() % 4 == 0;
        if (ml_session_set_halting(session_, own ? nullptr : &rule) != ML_OK)
            must(!own && *ml_last_error(), "the artifact's own rule was refused");
    }

    void reset() {
        const uint8_t which = input_.byte(), count = input_.byte() % 4;
        if (which % 2) {
            const uint32_t sequence = which / 2 % 4;
            must((ml_session_reset_sequence(session_, sequence) == ML_OK) == (sequence < kSequences), "another reset");
            if (sequence < kSequences) positions_[sequence] = 0;
        } else {
            const bool good = count <= max_loops_;
            must((ml_session_reset(session_, count) == ML_OK) == good, "a reset to loops beyond all");
            if (good) positions_ = {};
        }
        check_positions();
    }

    void streaming() {
        const uint8_t mode = input_.byte(), threads = input_.byte() % 4;
        ml_session_stream(session_, mode % 8 == 7 ? mode : mode % 3, threads);
    }

    void timing() {
        const uint8_t on = input_.byte();
        must((ml_session_time(session_, on % 4) == ML_OK) == (on % 4 <= 1), "timing that is neither on nor off");
        timed_ = on % 4 <= 1 ? on % 4 == 1 : timed_;
        ran_ = false;
    }

    // Every token of every listed sequence, and what must be true of the outcome.
    bool run_on(const std::vector<uint32_t> &sequences, const std::vector<int64_t> &tokens, uint32_t count, bool all,
                uint32_t loop_count, std::vector<float> &logits) {
        std::vector<uint32_t> applied(size_t{stages_} * sequences.size() * count);
        logits.assign((all ? count : 1) * sequences.size() * vocab_, 0.0f);
        ml_run_args args{};
        args.sequences = sequences.data();
        args.num_sequences = static_cast<uint32_t>(sequences.size());
        args.tokens = tokens.data();
        args.count = count;
        args.all_logits = all;
        args.logits = logits.data();
        args.logits_floats = logits.size();
        args.loops = loop_count;
        args.applied_loops = applied.data();
        args.applied_size = applied.size();
        ran_ = ml_session_run(session_, &args) == ML_OK;
        if (ran_) {
            for (const uint32_t sequence : sequences) positions_[sequence] += count;
            for (const uint32_t one : applied) must(one >= 1 && one <= max_loops_, "other loops ran");
        } else {
            must(*ml_last_error() != 0, "a refused run without a reason");
        }
        check_positions();
        std::vector<uint64_t> times(size_t{stages_} * max_loops_ + 1);
        must((ml_session_times(session_, times.data(), times.size()) == ML_OK) == (timed_ && ran_),
             "times of a run that has none");
        return ran_;
    }

    std::vector<int64_t> tokens(size_t count) {
        std::vector<int64_t> ids(count);
        for (int64_t &id : ids) {
            const uint8_t byte = input_.byte();
            id = byte == 0xFF ? int64_t{vocab_} : byte == 0xFE ? -1 : byte % vocab_;
        }
        return ids;
    }

    void run() {
        const uint8_t listed = input_.byte();
        std::vector<uint32_t> sequences;
        for (uint32_t i = 0; i < 1 + listed / 4 % 3u; i++)
            sequences.push_back((listed + i) % (listed < 0xF0 ? 3u : 4u));
        const uint32_t count = input_.byte() % (kMaxCount + 1);
        const bool all = input_.byte() % 2 != 0;
        const uint32_t loop_count = loops();
        std::vector<float> logits;
        const std::vector<int64_t> ids = tokens(size_t{count} * sequences.size());
        const bool fits = std::all_of(sequences.begin(), sequences.end(), [&](uint32_t sequence) {
            return sequence < kSequences && positions_[sequence] + count <= context_;
        });
        const bool known =
            std::all_of(ids.begin(), ids.end(), [&](int64_t id) { return id >= 0 && id < int64_t{vocab_}; });
        const bool good = fits && known && count > 0 && loop_count <= max_loops_;
        must(run_on(sequences, ids, count, all, loop_count, logits) == good, "a run that should not, or should have");
    }

    // A sequence and its copy, run together: the same bits.
    void twins() {
        const uint32_t from = input_.byte() % kSequences, to = (from + 1) % kSequences, count = 1 + input_.byte() % 3;
        fork(from, to);
        if (positions_[from] + count > context_) return;
        std::vector<int64_t> ids(count);
        for (int64_t &id : ids) id = input_.byte() % vocab_;
        const std::vector<int64_t> once = ids;
        ids.insert(ids.end(), once.begin(), once.end());
        std::vector<float> logits;
        const uint32_t loop_count = input_.byte() % (max_loops_ + 1);
        must(run_on({from, to}, ids, count, true, loop_count, logits), "a run of twins was refused");
        const size_t half = logits.size() / 2;
        must(std::memcmp(logits.data(), logits.data() + half, half * sizeof(float)) == 0, "twins that differ");
    }

    void check_positions() const {
        for (uint32_t i = 0; i < kSequences; i++)
            must(ml_session_position(session_, i) == positions_[i], "a position that nobody moved");
    }

    fuzz::Input &input_;
    ml_session *session_;
    const uint32_t vocab_, context_, stages_, max_loops_;
    std::array<uint32_t, kSequences> positions_{};
    bool timed_ = false, ran_ = false;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz::Input input(data, size);
    Opened *opened = nullptr;
    ml_session *session = session_of(input.byte(), opened);
    Calls calls(input, session, opened->model);
    for (uint32_t i = 0; i < kMaxOperations && input.left() > 0; i++) calls.one();
    return 0;
}
