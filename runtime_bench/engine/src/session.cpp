#include "session.h"

#include <algorithm>
#include <sys/mman.h>

#include "error.h"

using namespace ml;

namespace {

constexpr uint32_t kChunk = 128; // tokens per pass over the weights: bounds scratch memory

// Anonymous memory that costs nothing until it is written: a short sequence pays only for its own tokens.
uint8_t *map_zeroed(uint64_t bytes) {
    void *mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    require(mapped != MAP_FAILED, "a KV cache of ", bytes,
            " bytes cannot be allocated; export with a smaller --context");
    return static_cast<uint8_t *>(mapped);
}

} // namespace

ml_session::ml_session(std::shared_ptr<const Model> model, uint32_t threads, uint32_t loops)
    : model_(std::move(model)), context_(threads) {
    set_loops(loops);
    require(!__builtin_mul_overflow(slot_bytes(), uint64_t{model_->num_slots}, &cache_bytes_), "a KV cache of ",
            model_->num_slots, " slots of ", slot_bytes(), " bytes overflows 64 bits");
    keys_ = map_zeroed(cache_bytes_);
    try {
        values_ = map_zeroed(cache_bytes_);
    } catch (...) {
        munmap(keys_, cache_bytes_);
        throw;
    }
}

ml_session::~ml_session() {
    munmap(keys_, cache_bytes_);
    munmap(values_, cache_bytes_);
}

uint64_t ml_session::slot_bytes() const {
    return uint64_t{model_->kv_heads} * model_->context * kv_vector_bytes(model_->kv_type, model_->head_dim);
}

void ml_session::set_loops(uint32_t loops) {
    require(loops <= model_->max_loops, "loops ", loops, " is outside 1-", model_->max_loops,
            ", the bound this artifact was exported for");
    loops_ = loops;
}

void ml_session::reset(uint32_t loops) {
    if (loops) set_loops(loops);
    position = 0;
}

void ml_session::run(const int64_t *tokens, uint32_t count, bool all_logits, float *logits, uint64_t logits_floats) {
    require(count >= 1 && tokens && logits, "there are no tokens to run, or no room for logits");
    require(uint64_t{position} + count <= model_->context, uint64_t{position} + count,
            " tokens do not fit the context of ", model_->context);
    const uint64_t needed = uint64_t{all_logits ? count : 1} * model_->vocab_size;
    require(logits_floats >= needed, "room for ", logits_floats, " logits was given where ", needed, " are needed");
    for (uint32_t t = 0; t < count; t++)
        require(tokens[t] >= 0 && tokens[t] < int64_t{model_->vocab_size}, "token ", tokens[t],
                " is outside the vocabulary of ", model_->vocab_size);
    const uint32_t before = position;
    try {
        // Where a stage has full attention, the tokens of a call see each other and cannot be cut apart.
        const bool causal = std::all_of(model_->stages.begin(), model_->stages.end(),
                                        [](const StageSpec &stage) { return stage.causal; });
        for (uint32_t done = 0; done < count;) {
            const uint32_t chunk = causal ? std::min(kChunk, count - done) : count;
            run_chunk(tokens + done, chunk, all_logits ? logits + uint64_t{done} * model_->vocab_size : logits,
                      all_logits, done + chunk == count);
            done += chunk;
        }
    } catch (...) { // the call did nothing: what its chunks left in the KV cache is written again
        position = before;
        throw;
    }
}

void ml_session::run_chunk(const int64_t *tokens, uint32_t count, float *logits, bool all_logits, bool last) {
    const Model &model = *model_;
    float *hidden = hidden_.at_least(size_t{count} * model.hidden_size);
    context_.embed(parse_matrix(model.embedding), tokens, count, hidden);
    std::vector<ml_record> records;
    for (const StageSpec &stage : model.stages) {
        records.clear();
        for (const uint32_t block : stage.blocks) records.push_back(model.blocks[block]);
        ml_loop_args args{};
        args.blocks = records.data();
        args.num_blocks = static_cast<uint32_t>(records.size());
        args.loops = loops_ && stage.max_loops > 1 ? loops_ : stage.loops;
        // A stage bounded below the session's count runs as often as it may.
        args.loops = std::min(args.loops, stage.max_loops);
        args.damping = stage.damping;
        args.loop_end_norm = stage.loop_end_norm ? model.final_norm : nullptr;
        args.loop_end_norm_eps = model.eps;
        args.hidden_in = args.hidden_out = hidden;
        args.hidden_size = model.hidden_size;
        args.tokens = count;
        args.position = position;
        args.key_cache = keys_ + slot_bytes() * stage.first_slot;
        args.value_cache = values_ + slot_bytes() * stage.first_slot;
        args.cache_bytes = slot_bytes() * stage.num_slots();
        args.kv_type = model.kv_type;
        args.full_attention = stage.causal ? 0 : 1;
        args.num_slots = stage.num_slots();
        args.capacity = model.context;
        context_.loop(args);
    }
    position += count;
    if (!all_logits && !last) return;
    const uint32_t skipped = all_logits ? 0 : count - 1;
    const bool normed = model.stages.back().loop_end_norm;
    context_.head(parse_matrix(model.head), normed ? nullptr : model.final_norm, model.eps,
                  hidden + size_t{skipped} * model.hidden_size, count - skipped, logits);
}
