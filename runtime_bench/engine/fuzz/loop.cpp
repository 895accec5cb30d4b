// One call of the loop operator: every number of the call comes from the input, the buffers are as large as it says.
// The caller's promise is that sizes are true; everything else may be wrong.
#include <algorithm>
#include <vector>

#include "input.h"
#include "mobileloop.h"
#include "targets.h"

using fuzz::must;

namespace {

// Small, so that many calls fit a second.
constexpr size_t kMaxFloats = 1u << 12, kMaxCacheBytes = 1u << 16, kMaxApplications = 12;

// Mostly a small number, now and then any.
uint32_t number(fuzz::Input &input) {
    const uint8_t first = input.byte();
    return first < 0xF0 ? first % 16 : input.value<uint32_t>();
}

float fraction(fuzz::Input &input) {
    const uint8_t first = input.byte();
    return first < 0xF0 ? static_cast<float>(first) / 239.0f : input.value<float>();
}

// One thread mostly: threads that meet cost more than all the rest of a call. Kept, since starting them costs even
// more.
ml_context *context_of(uint8_t choice) {
    static ml_context *contexts[3] = {};
    const uint32_t threads = choice % 16 < 14 ? 1 : choice % 16 - 12u; // 1, 2 or 3
    ml_context *&context = contexts[threads - 1];
    if (!context) must(ml_context_create(threads, &context) == ML_OK, "no context");
    return context;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz::Input input(data, size);
    ml_loop_args args{};
    const uint32_t copies = input.byte() % 4; // blocks of the stage, all the same record
    args.num_blocks = copies;
    args.loops = number(input);
    args.damping = fraction(input);
    args.loop_end_norm_eps = fraction(input);
    const bool norm = input.byte() % 2 != 0, in_place = input.byte() % 2 != 0;
    args.tokens = number(input);
    args.num_sequences = input.byte() % 4;
    const uint32_t position = number(input);
    args.num_slots = number(input);
    args.capacity = number(input);
    const uint8_t kv = input.byte();
    const uint32_t types[] = {ML_KV_F32, ML_KV_F16, ML_KV_I8};
    args.kv_type = kv % 4 == 3 ? input.byte() : types[kv % 4];
    const uint64_t cache_bytes = input.value<uint32_t>() % kMaxCacheBytes;
    args.halting.rule = number(input);
    args.halting.min_loops = number(input);
    args.halting.threshold = static_cast<double>(fraction(input));
    args.halting.gate_bias = fraction(input);
    args.filled_loops = number(input);
    const bool gate = input.byte() % 2 != 0;
    const bool other_size = input.byte() == 0;
    const uint8_t attention = input.byte(), mode = input.byte(), stream_threads = input.byte(), threads = input.byte();
    args.full_attention = attention % 4 == 3 ? attention : attention % 2;
    const fuzz::Record copy(input.data(), input.left());
    const std::vector<ml_record> blocks(copies, copy.get());
    args.hidden_size = other_size ? 7 : fuzz::header_field(input.data(), input.left(), 24);
    const uint64_t rows = uint64_t{args.tokens} * args.num_sequences;
    const uint64_t floats = rows * args.hidden_size;
    if (rows > kMaxFloats || floats > kMaxFloats || uint64_t{args.loops} * copies > kMaxApplications ||
        args.hidden_size > kMaxFloats)
        return 0;
    const std::vector<float> scale(args.hidden_size, 1.0f);
    std::vector<float> in(floats, 0.5f), out(floats);
    std::vector<std::vector<uint32_t>> caches(size_t{2} * args.num_sequences,
                                              std::vector<uint32_t>(cache_bytes / 4 + 1));
    std::vector<ml_sequence> sequences(args.num_sequences);
    for (uint32_t i = 0; i < args.num_sequences; i++)
        sequences[i] = {caches[2 * i].data(), caches[2 * i + 1].data(), cache_bytes, position + i % 2};
    args.sequences = sequences.data();
    args.halting.gate = gate ? scale.data() : nullptr;
    args.blocks = blocks.data();
    args.next = blocks.data();
    args.num_next = copies;
    args.loop_end_norm = norm ? scale.data() : nullptr;
    args.hidden_in = in.data();
    args.hidden_out = in_place ? in.data() : out.data();
    std::vector<uint32_t> applied(rows);
    args.applied_loops = applied.data();
    ml_context *context = context_of(threads);
    // Refused where the mode is none, or no thread would be left to compute: the last one stays then.
    ml_context_stream(context, mode % 8 == 7 ? mode : mode % 3, stream_threads % 4);
    if (ml_loop(context, &args) == ML_OK) {
        for (const uint32_t loops : applied)
            must(loops >= 1 && loops <= args.loops && (args.halting.rule || loops == args.loops), "other loops ran");
        must(uint64_t{position} + args.tokens <= args.capacity &&
                 uint64_t{std::max(args.loops, args.filled_loops)} * copies <= args.num_slots,
             "a call ran beyond its cache");
    } else {
        must(*ml_last_error() != 0, "a refused call without a reason");
    }
    return 0;
}
