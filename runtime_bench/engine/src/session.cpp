#include "session.h"

#include <algorithm>
#include <cstring>
#include <sys/mman.h>

#include "error.h"

using namespace ml;

namespace {

constexpr uint32_t kChunk = 128; // rows per pass over the weights: bounds scratch memory
constexpr uint32_t kMaxSequences = 1024;

uint64_t bytes_of(std::initializer_list<uint64_t> factors) {
    uint64_t bytes = 1;
    for (const uint64_t factor : factors)
        require(!__builtin_mul_overflow(bytes, factor, &bytes), "the size of the KV caches overflows 64 bits");
    return bytes;
}

} // namespace

KvMemory::KvMemory(const Model &model, uint32_t num_sequences) {
    slot_bytes_ = bytes_of({model.kv_heads, model.context, model.head_dim, model.kv_type == ML_KV_F16 ? 2u : 4u});
    cache_bytes_ = bytes_of({slot_bytes_, model.num_slots});
    total_bytes_ = bytes_of({cache_bytes_, 2, num_sequences});
    void *mapped =
        mmap(nullptr, total_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    require(mapped != MAP_FAILED, "KV caches of ", total_bytes_, " bytes for ", num_sequences,
            " sequences cannot be allocated; export with a smaller --context, or run fewer sequences");
    data_ = static_cast<uint8_t *>(mapped);
}

KvMemory::~KvMemory() { munmap(data_, total_bytes_); }

namespace {

uint32_t checked_sequences(uint32_t count) {
    require(count >= 1 && count <= kMaxSequences, count, " sequences are outside 1-", kMaxSequences);
    return count;
}

} // namespace

ml_session::ml_session(std::shared_ptr<const Model> model, uint32_t threads, uint32_t loops, uint32_t num_sequences)
    : model_(std::move(model)), context_(threads), kv_(*model_, checked_sequences(num_sequences)),
      positions_(num_sequences), seen_(num_sequences) {
    set_loops(loops);
    for (const StageSpec &stage : model_->stages) {
        records_.emplace_back();
        for (const uint32_t block : stage.blocks) records_.back().push_back(model_->blocks[block]);
    }
}

void ml_session::set_loops(uint32_t loops) {
    require(loops <= model_->max_loops, "loops ", loops, " is outside 1-", model_->max_loops,
            ", the bound this artifact was exported for");
    loops_ = loops;
}

void ml_session::check_sequence(uint32_t sequence) const {
    require(sequence < positions_.size(), "sequence ", sequence, " is outside 0-", positions_.size() - 1,
            ", the sequences of this session");
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
    const uint64_t part = kv_.slot_bytes() / model_->kv_heads; // [context, head_dim]
    const uint64_t used = part / model_->context * positions_[from];
    for (uint32_t slot = 0; slot < model_->num_slots; slot++)
        for (uint64_t at = 0; at < kv_.slot_bytes(); at += part) {
            std::memcpy(kv_.keys(to, slot) + at, kv_.keys(from, slot) + at, used);
            std::memcpy(kv_.values(to, slot) + at, kv_.values(from, slot) + at, used);
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
    const uint64_t rows = uint64_t{args.num_sequences} * args.count;
    const uint64_t needed = (args.all_logits ? rows : args.num_sequences) * model_->vocab_size;
    require(args.logits_floats >= needed, "room for ", args.logits_floats, " logits was given where ", needed,
            " are needed");
    for (uint64_t t = 0; t < rows; t++)
        require(args.tokens[t] >= 0 && args.tokens[t] < int64_t{model_->vocab_size}, "token ", args.tokens[t],
                " is outside the vocabulary of ", model_->vocab_size);
}

void ml_session::run(const ml_run_args &args) {
    check(args);
    const uint32_t longest = std::max(1u, kChunk / args.num_sequences);
    uint32_t done = 0;
    try {
        while (done < args.count) {
            const uint32_t count = std::min(longest, args.count - done);
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
    for (size_t stage = 0; stage < model_->stages.size(); stage++) run_stage(stage, count, hidden);
    if (args.all_logits || done + count == args.count) run_head(args, done, count, hidden);
}

void ml_session::run_stage(size_t number, uint32_t count, float *hidden) {
    const StageSpec &stage = model_->stages[number];
    sequences_.clear();
    for (const uint32_t sequence : running_)
        sequences_.push_back({kv_.keys(sequence, stage.first_slot), kv_.values(sequence, stage.first_slot),
                              kv_.slot_bytes() * stage.num_slots(), positions_[sequence]});
    ml_loop_args args{};
    args.blocks = records_[number].data();
    args.num_blocks = static_cast<uint32_t>(records_[number].size());
    // A stage bounded below the session's count runs as often as it may.
    args.loops = std::min(loops_ && stage.max_loops > 1 ? loops_ : stage.loops, stage.max_loops);
    args.damping = stage.damping;
    args.loop_end_norm = stage.loop_end_norm ? model_->final_norm : nullptr;
    args.loop_end_norm_eps = model_->eps;
    args.hidden_in = args.hidden_out = hidden;
    args.hidden_size = model_->hidden_size;
    args.tokens = count;
    args.sequences = sequences_.data();
    args.num_sequences = static_cast<uint32_t>(sequences_.size());
    args.kv_type = model_->kv_type;
    args.num_slots = stage.num_slots();
    args.capacity = model_->context;
    context_.loop(args);
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
