// The loop operator: a stage's blocks applied again and again, and the rows that halt on the way.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "bounds.h"
#include "error.h"
#include "format/check.h"
#include "loop/block.h"
#include "loop/halting.h"

using namespace ml;

namespace {

bool may_halt(const ml_loop_args &args) {
    return args.halting.rule != ML_HALT_NONE && args.halting.min_loops < args.loops;
}

} // namespace

void ml_context::rotary_table(const ml_loop_args &args, const Block &block) {
    const auto same_position = [](const ml_sequence &sequence, uint32_t position) {
        return sequence.position == position;
    };
    if (rotary_theta_ == block.theta && rotary_dim_ == block.head_dim && rotary_tokens_ == args.tokens &&
        std::equal(args.sequences, args.sequences + args.num_sequences, rotary_positions_.begin(),
                   rotary_positions_.end(), same_position))
        return;
    const uint32_t half = block.head_dim / 2;
    rotary_tokens_ = 0; // what follows may fail, and the table is lost then
    const size_t rows = size_t{args.num_sequences} * args.tokens;
    float *table = rotary_.at_least(rows * block.head_dim);
    rotary_positions_.clear();
    for (uint32_t s = 0; s < args.num_sequences; s++) rotary_positions_.push_back(args.sequences[s].position);
    for (uint32_t i = 0; i < half; i++) {
        // The float32 arithmetic of the reference: 1 / theta^(2i / d), then times the position.
        const float exponent = static_cast<float>(2 * i) / static_cast<float>(block.head_dim);
        const float inverse = 1.0f / std::pow(block.theta, exponent);
        for (size_t row = 0; row < rows; row++) {
            const size_t position = rotary_positions_[row / args.tokens] + row % args.tokens;
            const float angle = static_cast<float>(position) * inverse;
            table[row * block.head_dim + i] = std::cos(angle);
            table[row * block.head_dim + half + i] = std::sin(angle);
        }
    }
    rotary_theta_ = block.theta;
    rotary_dim_ = block.head_dim;
    rotary_tokens_ = args.tokens;
}

// Afterwards everything that a call says agrees with everything else, and blocks_ holds its blocks.
void ml_context::check(const ml_loop_args &args) {
    require(args.num_blocks >= 1 && args.blocks, "a loop call has no blocks");
    require(args.loops >= 1, "loops is 0, and a stage runs at least once");
    require(args.tokens >= 1 && args.hidden_in && args.hidden_out, "a loop call has no hidden states");
    require(std::isfinite(args.damping) && args.damping > 0 && args.damping <= 1, "the damping is outside (0, 1]");
    require(known_kv_type(args.kv_type), "the KV type is none of float32, float16 and int8");
    require(args.full_attention <= 1, "full_attention is ", args.full_attention, ", neither 0 nor 1");
    require(args.num_sequences >= 1 && args.sequences, "a loop call has no sequences");
    require(args.num_next == 0 || args.next, "a loop call names ", args.num_next, " records as next and gives none");
    require(args.num_sequences <= kMaxSequences, args.num_sequences, " sequences are more than the ", kMaxSequences,
            " of one call");
    blocks_.clear();
    for (uint32_t b = 0; b < args.num_blocks; b++) {
        blocks_.push_back(parse_block(args.blocks[b]));
        const Block &first = blocks_[0], &block = blocks_[b];
        require(block.hidden == args.hidden_size, "a block has hidden size ", block.hidden, ", the hidden states ",
                args.hidden_size);
        require(block.heads == first.heads && block.kv_heads == first.kv_heads && block.head_dim == first.head_dim &&
                    block.intermediate == first.intermediate && block.theta == first.theta,
                "the blocks of a stage differ in their dimensions");
    }
    next_.clear();
    for (uint32_t i = 0; i < args.num_next; i++) add_matrices(args.next[i], next_);
    check_halting(args.halting);
    require(args.halting.rule != ML_HALT_EXIT_GATE || args.halting.gate, "the exit gate has no weights");
    require(args.filled_loops == 0 || args.filled_loops >= args.loops, "slots of ", args.filled_loops,
            " loops are to be filled, fewer than the ", args.loops, " that run");
    const Block &first = blocks_[0];
    const uint32_t slot_loops = std::max(args.loops, args.filled_loops);
    require(uint64_t{slot_loops} * args.num_blocks <= args.num_slots, slot_loops, " loops of ", args.num_blocks,
            " blocks need more than the ", args.num_slots, " KV slots given");
    const uint64_t needed =
        product({args.num_slots, first.kv_heads, args.capacity, kv_vector_bytes(args.kv_type, first.head_dim)});
    caches_.clear();
    for (uint32_t s = 0; s < args.num_sequences; s++) {
        const ml_sequence &sequence = args.sequences[s];
        require(sequence.key_cache && sequence.value_cache, "sequence ", s, " of a loop call has no KV cache");
        require(sequence.cache_bytes >= needed, "the KV cache of sequence ", s, " holds ", sequence.cache_bytes,
                " bytes where ", needed, " are needed");
        require(uint64_t{sequence.position} + args.tokens <= args.capacity, "position ", sequence.position, " plus ",
                args.tokens, " tokens is beyond the KV capacity of ", args.capacity);
        for (const void *cache : {sequence.key_cache, sequence.value_cache})
            caches_.emplace_back(static_cast<const uint8_t *>(cache), static_cast<const uint8_t *>(cache) + needed);
    }
    std::sort(caches_.begin(), caches_.end());
    for (size_t i = 1; i < caches_.size(); i++)
        require(caches_[i - 1].second <= caches_[i].first, "two KV caches of a loop call overlap");
}

// One thread's part in a whole call. All threads take the same turns, because whether a row halts is written by one of
// them and read by all behind a barrier.
class ml_context::Region {
public:
    Region(ml_context &context, const Stage &stage, uint32_t thread)
        : context_(context), stage_(stage), args_(stage.args), hidden_size_(args_.hidden_size), thread_(thread),
          rows_{stage.rows, stage.halting ? context.going_[0].at_least(0) : nullptr} {}

    void run() {
        const uint32_t last = stage_.halting ? args_.halting.min_loops - 1 : args_.loops - 1;
        for (uint32_t loop = 0; loop < args_.loops && rows_.count > 0; loop++) {
            if (stage_.prefetching && loop == last) stream();
            apply(loop);
            if (stage_.halting) {
                decide(loop + 1);
                retire(loop + 1);
            }
            if (thread_ == 0) stage_.clock.loop_ended(loop);
        }
        if (stage_.halting) return;
        size_t turn = 0;
        for (size_t row = 0; row < rows_.count; row++) fill(row, args_.loops, turn);
    }

private:
    Range own(size_t total) const { return share(total, thread_, stage_.threads); }

    // From here on, asks for the first part of what is next. All of it would push the resident block out of the core's
    // own cache, and be read twice (docs/lab-log.md).
    void stream() {
        uint64_t bytes = 0;
        for (uint32_t b = 0; b < args_.num_blocks; b++) bytes += args_.blocks[b].size_bytes / stage_.threads;
        uint64_t budget = bytes / 4;
        Stream &stream = context_.streams_[thread_];
        for (const Matrix &matrix : context_.next_) stream.add(matrix, thread_, stage_.threads, budget);
        stream.pace(bytes);
    }

    // Every block once, then damping and the norm. Ends with all threads past the last write to the state.
    void apply(uint32_t loop) {
        float *hidden = stage_.hidden, *entered = stage_.entered;
        const Range values = own(rows_.count * hidden_size_), rows = own(rows_.count);
        // No barrier behind this: a block writes the state only behind barriers of its own.
        if (entered) std::copy(hidden + values.begin, hidden + values.end, entered + values.begin);
        for (uint32_t b = 0; b < args_.num_blocks; b++)
            Application(context_, stage_, rows_, context_.blocks_[b], loop * args_.num_blocks + b, thread_).run();
        if (args_.damping != 1.0f) {
            for (size_t i = values.begin; i < values.end; i++)
                hidden[i] = std::fma(args_.damping, hidden[i] - entered[i], entered[i]);
            context_.pool.barrier(thread_);
        }
        if (args_.loop_end_norm) {
            for (size_t row = rows.begin; row < rows.end; row++) {
                float *x = hidden + row * hidden_size_;
                context_.kernels.rms_norm(x, args_.loop_end_norm, args_.loop_end_norm_eps, hidden_size_, x);
            }
            context_.pool.barrier(thread_);
        }
    }

    // Which rows are done behind `applied` loops.
    void decide(uint32_t applied) {
        uint8_t *done = context_.done_.at_least(0);
        double *survival = context_.survival_.at_least(0);
        const Range rows = own(rows_.count);
        for (size_t i = rows.begin; i < rows.end; i++) {
            const size_t at = i * hidden_size_;
            const bool halted =
                halts(args_.halting, stage_.entered + at, stage_.hidden + at, hidden_size_, survival[rows_.of_call(i)]);
            done[i] = applied == args_.loops || (halted && applied >= args_.halting.min_loops);
        }
        context_.pool.barrier(thread_);
    }

    // Takes the rows that are done out of the state, and moves the others together. A thread moves its own columns of
    // every row, so no row is overwritten before it has been moved.
    void retire(uint32_t applied) {
        const uint8_t *done = context_.done_.at_least(0);
        uint32_t *next = context_.going_[turns_ % 2 ? 0 : 1].at_least(0);
        const Range columns = own(hidden_size_);
        size_t kept = 0, turn = 0;
        for (size_t i = 0; i < rows_.count; i++) {
            const size_t row = rows_.of_call(i);
            const float *from = stage_.hidden + i * hidden_size_;
            float *to = done[i] ? args_.hidden_out + row * hidden_size_ : stage_.hidden + kept * hidden_size_;
            if (done[i] || kept != i) std::copy(from + columns.begin, from + columns.end, to + columns.begin);
            if (done[i]) {
                fill(row, applied, turn);
            } else {
                if (thread_ == 0) next[kept] = static_cast<uint32_t>(row);
                kept++;
            }
            if (done[i] && args_.applied_loops && thread_ == 0) args_.applied_loops[row] = applied;
        }
        if (kept == rows_.count) return; // all read the same flags, so all return
        rows_ = {kept, next};
        turns_++;
        context_.pool.barrier(thread_);
    }

    // A row's keys and values of its last loop stand in for those of the loops that it does not run. The threads take
    // the blocks in turns.
    void fill(size_t row, uint32_t applied, size_t &turn) {
        const ml_sequence &sequence = stage_.sequence_of(row);
        const size_t at = stage_.position_of(row) * stage_.kv_row_bytes;
        for (uint32_t place = 0; applied < args_.filled_loops && place < args_.num_blocks; place++) {
            if (turn++ % stage_.threads != thread_) continue;
            for (void *cache : {sequence.key_cache, sequence.value_cache})
                for (size_t head = 0; head < stage_.kv_heads; head++)
                    for (uint32_t loop = applied; loop < args_.filled_loops; loop++)
                        std::memcpy(stage_.part_of(cache, slot(loop, place), head) + at,
                                    stage_.part_of(cache, slot(applied - 1, place), head) + at, stage_.kv_row_bytes);
        }
    }
    size_t slot(uint32_t loop, uint32_t place) const { return size_t{loop} * args_.num_blocks + place; }

    ml_context &context_;
    const Stage &stage_;
    const ml_loop_args &args_;
    const size_t hidden_size_;
    const uint32_t thread_;
    Rows rows_;
    uint32_t turns_ = 0; // of the two lists
};

// Scratch for one call: nothing is allocated once the threads run.
void ml_context::reserve(const ml_loop_args &args, const Block &block) {
    const size_t rows = size_t{args.num_sequences} * args.tokens;
    const size_t query_size = size_t{block.heads} * block.head_dim, kv_size = size_t{block.kv_heads} * block.head_dim;
    query_.at_least(rows * query_size);
    key_.at_least(rows * kv_size);
    value_.at_least(rows * kv_size);
    attended_.at_least(rows * query_size);
    gate_.at_least(rows * block.intermediate);
    up_.at_least(rows * block.intermediate);
    if (args.damping != 1.0f || may_halt(args)) entered_.at_least(rows * block.hidden);
    if (may_halt(args)) {
        hidden_.at_least(rows * block.hidden);
        for (Scratch<uint32_t> &list : going_) list.at_least(rows);
        done_.at_least(rows);
        survival_.at_least(rows);
    }
    const size_t widest = std::max({size_t{block.hidden}, query_size, size_t{block.intermediate}});
    for (uint32_t thread = 0; thread < (rows > 1 ? 1 : pool.size()); thread++) private_[thread].rows(rows, widest);
}

void ml_context::loop(const ml_loop_args &args, uint64_t *loop_ns) {
    LoopClock clock(loop_ns);
    check(args);
    const Block &block = blocks_[0];
    rotary_table(args, block);
    reserve(args, block);
    ml_loop_args filled = args;
    filled.filled_loops = std::max(args.filled_loops, args.loops);
    const size_t rows = size_t{args.num_sequences} * args.tokens, total = rows * args.hidden_size;
    const bool halting = may_halt(args);
    if (halting) {
        for (size_t row = 0; row < rows; row++) going_[0].at_least(0)[row] = static_cast<uint32_t>(row);
        std::fill_n(survival_.at_least(0), rows, 1.0);
    } else if (args.applied_loops) {
        std::fill_n(args.applied_loops, rows, args.loops);
    }
    float *hidden = halting ? hidden_.at_least(0) : args.hidden_out;
    if (hidden != args.hidden_in) std::copy_n(args.hidden_in, total, hidden);
    // Nothing is gained where every weight is read once, or where arithmetic decides.
    const bool streaming = args.loops > 1 && rows == 1 && !next_.empty();
    const bool prefetching = streaming && stream_mode_ == ML_STREAM_PREFETCH;
    for (Stream &stream : streams_) {
        stream.clear();
        stream.reserve(next_.size());
    }
    const uint32_t ready = pool.ready();
    const uint32_t helpers = streaming && stream_mode_ == ML_STREAM_CORE ? std::min(stream_threads_, ready - 1) : 0;
    const Stage stage{filled,
                      hidden,
                      halting || args.damping != 1.0f ? entered_.at_least(0) : nullptr,
                      rows,
                      rows > 1,
                      halting,
                      ready - helpers,
                      block.kv_heads,
                      kv_vector_bytes(args.kv_type, block.head_dim),
                      prefetching,
                      clock};
    applied_.store(false);
    const auto region = [&](uint32_t thread) {
        if (thread >= stage.threads) {
            read_ahead_.fetch_add(read_ahead(next_, thread - stage.threads, helpers, applied_));
            return;
        }
        Region(*this, stage, thread).run();
        if (thread == 0) applied_.store(true);
    };
    pool.run(region, stage.threads, helpers);
    clock.call_ended();
}
