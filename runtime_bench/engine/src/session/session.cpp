#include "session/session.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>

#include "bounds.h"
#include "error.h"

using namespace ml;

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kSleepsLonger = std::chrono::microseconds(100); // than asked for, at most, on an idle machine

// Every schedule that is used has far fewer; one that was made to do harm could ask for gigabytes.
constexpr uint64_t kMaxTimes = 1u << 20;

uint32_t checked_sequences(uint32_t count) {
    require(count >= 1 && count <= kMaxSequences, count, " sequences are outside 1-", kMaxSequences);
    return count;
}

} // namespace

ml_session::ml_session(std::shared_ptr<const Model> model, uint32_t threads, uint32_t loops, uint32_t num_sequences)
    : model_(std::move(model)), context_(threads), kv_(*model_, checked_sequences(num_sequences)),
      positions_(num_sequences), filled_(num_sequences * model_->stages.size()), seen_(num_sequences) {
    set_loops(loops);
    for (const StageSpec &stage : model_->stages) {
        records_.emplace_back();
        for (const uint32_t block : stage.blocks) records_.back().push_back(model_->blocks[block]);
    }
}

void ml_session::check_loops(uint32_t loops) const {
    require(loops <= model_->max_loops, "loops ", loops, " is outside 1-", model_->max_loops,
            ", the bound this artifact was exported for");
}

void ml_session::set_loops(uint32_t loops) {
    check_loops(loops);
    loops_ = loops;
}

void ml_session::check_sequence(uint32_t sequence) const {
    require(sequence < positions_.size(), "sequence ", sequence, " is outside 0-", positions_.size() - 1,
            ", the sequences of this session");
}

void ml_session::set_halting(const ml_halting *halting) {
    if (halting) {
        require(!halting->gate, "a session's exit gate is the artifact's, and weights of another were given");
        const ml_halting given = model_->with_gate(*halting);
        for (const StageSpec &stage : model_->stages)
            require(given.rule != ML_HALT_EXIT_GATE || stage.loop_end_norm || stage.max_loops == 1,
                    "the halting rule 'exit_gate' reads the normed state, but a looped stage of this artifact has no "
                    "norm at its loop ends");
        require(given.rule == ML_HALT_NONE || given.min_loops <= model_->max_loops, "the least loops ", given.min_loops,
                " of the halting rule are outside 1-", model_->max_loops, ", the bound this artifact was exported for");
        halting_ = given;
    }
    own_halting_ = halting == nullptr;
}

void ml_session::reset(uint32_t loops) {
    if (loops) set_loops(loops);
    std::fill(positions_.begin(), positions_.end(), 0);
}

void ml_session::reset_sequence(uint32_t sequence) {
    check_sequence(sequence);
    positions_[sequence] = 0;
}

void ml_session::fork(uint32_t from, uint32_t to) {
    check_sequence(from);
    check_sequence(to);
    if (from == to) return;
    const size_t stages = model_->stages.size();
    for (size_t number = 0; number < stages; number++) {
        const StageSpec &stage = model_->stages[number];
        const uint32_t filled = filled_[to * stages + number] = filled_[from * stages + number];
        for (uint32_t slot = 0; slot < filled * stage.blocks.size(); slot++)
            kv_.copy(from, stage.first_slot + slot, to, stage.first_slot + slot, positions_[from]);
    }
    positions_[to] = positions_[from];
}

// Afterwards running_ holds the sequences of the run.
void ml_session::check(const ml_run_args &args) {
    require(args.count >= 1 && args.tokens && args.logits, "there are no tokens to run, or no room for logits");
    require(args.num_sequences >= 1 && args.num_sequences <= positions_.size(), args.num_sequences,
            " sequences to run are outside 1-", positions_.size(), ", the sequences of this session");
    running_.clear();
    std::fill(seen_.begin(), seen_.end(), false);
    for (uint32_t i = 0; i < args.num_sequences; i++) {
        const uint32_t sequence = args.sequences ? args.sequences[i] : i;
        check_sequence(sequence);
        require(!seen_[sequence], "sequence ", sequence, " is listed twice in one run");
        seen_[sequence] = true;
        running_.push_back(sequence);
        const uint64_t length = uint64_t{positions_[sequence]} + args.count;
        require(length <= model_->context, length, " tokens do not fit the context of ", model_->context);
    }
    check_loops(args.loops);
    const uint64_t rows = uint64_t{args.num_sequences} * args.count;
    require(!args.applied_loops || args.applied_size >= rows * model_->stages.size(), "room for ", args.applied_size,
            " applied loops was given where ", rows * model_->stages.size(), " are needed");
    const uint64_t needed = (args.all_logits ? rows : args.num_sequences) * model_->vocab_size;
    require(args.logits_floats >= needed, "room for ", args.logits_floats, " logits was given where ", needed,
            " are needed");
    for (uint64_t t = 0; t < rows; t++)
        require(args.tokens[t] >= 0 && args.tokens[t] < int64_t{model_->vocab_size}, "token ", args.tokens[t],
                " is outside the vocabulary of ", model_->vocab_size);
}

void ml_session::time(uint32_t on) {
    require(on <= 1, "timing is ", on, ", neither 0 nor 1");
    const uint64_t loops = uint64_t{model_->stages.size()} * model_->max_loops;
    require(!on || loops <= kMaxTimes, "times of ", model_->stages.size(), " stages of up to ", model_->max_loops,
            " loops are more than ", kMaxTimes);
    timed_ = false;
    times_ns_.assign(on ? loops + 1 : 0, 0);
}

void ml_session::times(uint64_t *ns, uint64_t size) const {
    require(timed_, "the last run of this session was not timed");
    require(size == times_ns_.size(), "room for ", size, " times was given where ", times_ns_.size(), " are needed");
    std::copy(times_ns_.begin(), times_ns_.end(), ns);
}

void ml_session::slow_down(double share) {
    require(std::isfinite(share) && share >= 0 && share <= 10, "the share to slow down by is outside 0-10");
    slow_down_ = share;
}

void ml_session::run(const ml_run_args &args) {
    timed_ = false; // what is refused has no times either
    check(args);
    std::fill(times_ns_.begin(), times_ns_.end(), 0);
    const Clock::time_point start = Clock::now();
    run_chunks(args);
    timed_ = !times_ns_.empty();
    if (slow_down_ == 0) return;
    // Asleep nearly to the end: a thread that only turns is made to leave its core where others want it.
    const Clock::time_point ran = Clock::now();
    const Clock::time_point end = ran + std::chrono::duration_cast<Clock::duration>(slow_down_ * (ran - start));
    std::this_thread::sleep_until(end - kSleepsLonger);
    while (Clock::now() < end) {
    }
}

void ml_session::run_chunks(const ml_run_args &args) {
    const uint32_t longest = std::max(1u, kChunk / args.num_sequences);
    // Where a stage has full attention, the tokens of a call see each other and cannot be cut apart.
    const bool causal =
        std::all_of(model_->stages.begin(), model_->stages.end(), [](const StageSpec &stage) { return stage.causal; });
    uint32_t done = 0;
    try {
        while (done < args.count) {
            const uint32_t count = causal ? std::min(longest, args.count - done) : args.count;
            run_chunk(args, done, count);
            done += count;
            for (const uint32_t sequence : running_) positions_[sequence] += count;
        }
    } catch (...) { // the call did nothing: what its chunks left in the KV caches is written again
        for (const uint32_t sequence : running_) positions_[sequence] -= done;
        throw;
    }
}

// Tokens done .. done + count - 1 of every running sequence.
void ml_session::run_chunk(const ml_run_args &args, uint32_t done, uint32_t count) {
    const uint32_t rows = args.num_sequences * count;
    int64_t *tokens = tokens_.at_least(rows);
    for (uint32_t i = 0; i < args.num_sequences; i++)
        std::copy_n(args.tokens + uint64_t{i} * args.count + done, count, tokens + uint64_t{i} * count);
    float *hidden = hidden_.at_least(size_t{rows} * model_->hidden_size);
    context_.embed(parse_matrix(model_->embedding), tokens, rows, hidden);
    for (size_t stage = 0; stage < model_->stages.size(); stage++) run_stage(args, stage, done, count, hidden);
    if (!args.all_logits && done + count < args.count) return;
    LoopClock clock(times_ns_.empty() ? nullptr : &times_ns_.back());
    run_head(args, done, count, hidden);
    clock.call_ended();
}

void ml_session::run_stage(const ml_run_args &run, size_t number, uint32_t done, uint32_t count, float *hidden) {
    const StageSpec &stage = model_->stages[number];
    const uint32_t asked = run.loops ? run.loops : loops_;
    ml_loop_args args{};
    args.blocks = records_[number].data();
    args.num_blocks = static_cast<uint32_t>(records_[number].size());
    args.loops = stage.loops_for(asked);
    args.filled_loops = fill_behind(number, args.loops);
    if (stage.max_loops > 1) args.halting = own_halting_ ? stage.halting : halting_;
    args.damping = static_cast<float>(stage.damping);
    args.loop_end_norm = stage.loop_end_norm ? model_->final_norm : nullptr;
    args.loop_end_norm_eps = model_->eps;
    args.hidden_in = args.hidden_out = hidden;
    args.hidden_size = model_->hidden_size;
    args.tokens = count;
    sequences_.clear();
    for (const uint32_t sequence : running_)
        sequences_.push_back({kv_.keys(sequence, stage.first_slot), kv_.values(sequence, stage.first_slot),
                              kv_.slot_bytes() * stage.num_slots(), positions_[sequence]});
    args.sequences = sequences_.data();
    args.num_sequences = static_cast<uint32_t>(sequences_.size());
    args.kv_type = model_->kv_type;
    args.full_attention = stage.causal ? 0 : 1;
    args.num_slots = stage.num_slots();
    args.capacity = model_->context;
    const bool ends = number + 1 == model_->stages.size();
    args.next = ends ? &model_->head : records_[number + 1].data();
    args.num_next = ends ? 1 : static_cast<uint32_t>(records_[number + 1].size());
    args.applied_loops = run.applied_loops ? applied_.at_least(running_.size() * count) : nullptr;
    context_.loop(args, times_ns_.empty() ? nullptr : times_ns_.data() + number * model_->max_loops);
    for (size_t i = 0; args.applied_loops && i < running_.size(); i++)
        std::copy_n(args.applied_loops + i * count, count,
                    run.applied_loops + (number * running_.size() + i) * run.count + done);
}

// Makes the slots of `loops` loops of a stage hold every token that the running sequences have run: those that ran
// fewer loops then left their last keys and values nowhere further. Returns the loops that new tokens have to fill, so
// that this stays true of all of them.
uint32_t ml_session::fill_behind(size_t number, uint32_t loops) {
    const StageSpec &stage = model_->stages[number];
    const size_t stages = model_->stages.size();
    for (const uint32_t sequence : running_)
        if (positions_[sequence] > 0) loops = std::max(loops, filled_[sequence * stages + number]);
    for (const uint32_t sequence : running_) {
        uint32_t &filled = filled_[sequence * stages + number];
        for (uint32_t loop = filled; positions_[sequence] > 0 && loop < loops; loop++)
            for (uint32_t place = 0; place < stage.blocks.size(); place++) {
                const uint32_t first = stage.first_slot + place, size = static_cast<uint32_t>(stage.blocks.size());
                kv_.copy(sequence, first + (filled - 1) * size, sequence, first + loop * size, positions_[sequence]);
            }
        filled = loops;
    }
    return loops;
}

void ml_session::run_head(const ml_run_args &args, uint32_t done, uint32_t count, const float *hidden) {
    const Model &model = *model_;
    const float *norm = model.stages.back().loop_end_norm ? nullptr : model.final_norm;
    const auto head = [&](const float *rows, uint32_t num_rows, uint64_t first) {
        context_.head(parse_matrix(model.head), norm, model.eps, rows, num_rows,
                      args.logits + first * model.vocab_size);
    };
    if (!args.all_logits) { // the last row of every sequence
        float *last = last_hidden_.at_least(size_t{args.num_sequences} * model.hidden_size);
        for (size_t i = 0; i < args.num_sequences; i++)
            std::copy_n(hidden + ((i + 1) * count - 1) * model.hidden_size, model.hidden_size,
                        last + i * model.hidden_size);
        return head(last, args.num_sequences, 0);
    }
    for (size_t i = 0; i < args.num_sequences; i++)
        head(hidden + i * count * model.hidden_size, count, uint64_t{i} * args.count + done);
}
