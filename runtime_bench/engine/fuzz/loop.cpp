// One call of the loop operator: every number of the call comes from the input, the buffers are as large as it says.
// The caller's promise is that sizes are true; everything else may be wrong.
#include <cmath>
#include <vector>

#include "input.h"
#include "mobileloop.h"
#include "targets.h"

using fuzz::must;

namespace {

constexpr size_t kMaxFloats = 1u << 16, kMaxCacheBytes = 1u << 20;

// Mostly a small number, now and then any.
uint32_t number(fuzz::Input &input) {
    const uint8_t first = input.byte();
    return first < 0xF0 ? first % 16 : input.value<uint32_t>();
}

float fraction(fuzz::Input &input) {
    const uint8_t first = input.byte();
    return first < 0xF0 ? static_cast<float>(first) / 239.0f : input.value<float>();
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
    args.position = number(input);
    args.num_slots = number(input);
    args.capacity = number(input);
    args.kv_type = input.byte() % 4 == 3 ? input.byte() : input.byte() % 2 ? 16u : 32u;
    args.cache_bytes = input.value<uint32_t>() % kMaxCacheBytes;
    const bool other_size = input.byte() == 0;
    const fuzz::Record copy(input.data(), input.left());
    const std::vector<ml_record> blocks(copies, copy.get());
    args.hidden_size = other_size ? 7 : fuzz::header_field(input.data(), input.left(), 24);
    const uint64_t floats = uint64_t{args.tokens} * args.hidden_size;
    if (floats > kMaxFloats || uint64_t{args.loops} * copies > 64 || args.hidden_size > kMaxFloats) return 0;
    const std::vector<float> scale(args.hidden_size, 1.0f);
    std::vector<float> in(floats, 0.5f), out(floats);
    std::vector<uint32_t> keys(args.cache_bytes / 4 + 1), values(args.cache_bytes / 4 + 1);
    args.blocks = blocks.data();
    args.next = blocks.data();
    args.num_next = copies;
    args.loop_end_norm = norm ? scale.data() : nullptr;
    args.hidden_in = in.data();
    args.hidden_out = in_place ? in.data() : out.data();
    args.key_cache = keys.data();
    args.value_cache = values.data();
    uint32_t applied = 0;
    args.applied_loops = &applied;
    static ml_context *context = [] {
        ml_context *made = nullptr;
        must(ml_context_create(2, &made) == ML_OK, "no context");
        return made;
    }();
    if (ml_loop(context, &args) == ML_OK) {
        must(applied == args.loops, "a call that ran other loops than it was told");
        must(uint64_t{args.position} + args.tokens <= args.capacity && applied * copies <= args.num_slots,
             "a call ran beyond its cache");
    } else {
        must(*ml_last_error() != 0, "a refused call without a reason");
    }
    return 0;
}
