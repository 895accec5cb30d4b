// A record: checked as either kind and, where it is good, used by the embedding and the head.
#include <cmath>
#include <vector>

#include "input.h"
#include "mobileloop.h"
#include "targets.h"

using fuzz::must;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const fuzz::Record copy(data, size);
    const ml_record record = copy.get();
    const bool block = ml_check_record(record, 1) == ML_OK, matrix = ml_check_record(record, 2) == ML_OK;
    must(!(block && matrix), "one record of two kinds");
    if (!matrix) return 0;
    // Bounded by the bytes at hand, since the tiles of all rows and columns are among them.
    const uint32_t rows = fuzz::header_field(data, size, 64 + 8), cols = fuzz::header_field(data, size, 64 + 12);
    static ml_context *context = [] {
        ml_context *made = nullptr;
        must(ml_context_create(1, &made) == ML_OK, "no context");
        return made;
    }();
    const int64_t tokens[] = {0, int64_t{rows} - 1, rows};
    std::vector<float> hidden(size_t{2} * cols), logits(size_t{2} * rows);
    must(ml_embed(context, record, tokens, 2, hidden.data(), cols) == ML_OK, "the embedding of a good matrix failed");
    must(ml_embed(context, record, tokens, 3, hidden.data(), cols) == ML_FAILED, "a token beyond all was embedded");
    for (float &value : hidden)
        if (!std::isfinite(value)) value = 1;
    must(ml_head(context, record, nullptr, 1e-5f, hidden.data(), 2, cols, logits.data(), rows) == ML_OK,
         "the head of a good matrix failed");
    must(ml_head(context, record, nullptr, 1e-5f, hidden.data(), 2, cols + 1, logits.data(), rows) == ML_FAILED,
         "a head of another width ran");
    return 0;
}
