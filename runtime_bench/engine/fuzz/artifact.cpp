// A file: opened by the engine and, where that succeeds, run for some tokens.
#include <algorithm>
#include <cstring>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#include "mobileloop.h"
#include "targets.h"

using fuzz::must;

namespace {

// Tokens of sequence 0; logits [vocab] of the last one.
ml_status run_tokens(ml_session *session, const int64_t *tokens, size_t count, std::vector<float> &logits) {
    ml_run_args args{};
    args.num_sequences = 1;
    args.tokens = tokens;
    args.count = static_cast<uint32_t>(count);
    args.logits = logits.data();
    args.logits_floats = logits.size();
    return ml_session_run(session, &args);
}

void run(ml_model *model) {
    const uint32_t vocab = ml_model_vocab_size(model), context = ml_model_context(model);
    must(vocab > 0 && context > 0 && ml_model_max_loops(model) > 0, "an open model has no size");
    for (const uint32_t loops : {0u, ml_model_max_loops(model)}) {
        if (loops > 4) continue; // 1024 loops of many blocks take too long
        ml_session *session = nullptr;
        if (ml_session_create(model, 1, loops, 1, &session) != ML_OK) {
            must(session == nullptr && *ml_last_error(), "a refused session without a reason");
            continue;
        }
        std::vector<int64_t> tokens{0, int64_t{vocab} - 1, int64_t{vocab} / 2};
        tokens.resize(std::min<size_t>(tokens.size(), context));
        std::vector<float> logits(vocab);
        std::vector<uint64_t> times(uint64_t{ml_model_num_stages(model)} * ml_model_max_loops(model) + 1);
        must(ml_session_time(session, 1) == ML_OK, "a session cannot be timed");
        if (run_tokens(session, tokens.data(), tokens.size(), logits) == ML_OK) {
            must(ml_session_position(session, 0) == tokens.size(), "a run that did not move the position");
            must(ml_session_times(session, times.data(), times.size()) == ML_OK, "a run without its times");
        } else {
            must(*ml_last_error() != 0 && ml_session_position(session, 0) == 0, "a failed run left something behind");
        }
        const int64_t outside = vocab;
        must(run_tokens(session, &outside, 1, logits) == ML_FAILED, "a token beyond all ran");
        ml_session_destroy(session);
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const int file = memfd_create("fuzz", MFD_CLOEXEC);
    must(file >= 0 && ftruncate(file, static_cast<off_t>(size)) == 0 &&
             pwrite(file, data, size, 0) == static_cast<ssize_t>(size),
         "the input cannot be put into a file");
    static const std::string path = "/proc/self/fd/" + std::to_string(file);
    ml_model *model = nullptr;
    if (ml_model_open(path.c_str(), &model) == ML_OK) {
        run(model);
        ml_model_close(model);
    } else {
        must(model == nullptr && *ml_last_error(), "a refused file without a reason");
    }
    return 0;
}
