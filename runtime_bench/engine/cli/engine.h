// The engine as the commands use it: every call of the C interface is here.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "error.h"
#include "mobileloop.h"

namespace ml {

inline void checked(ml_status status) {
    if (status != ML_OK) throw Error(ml_last_error());
}

class Session {
public:
    // loops 0: each stage's own count.
    Session(const std::string &path, uint32_t threads, uint32_t loops) {
        ml_model *model = nullptr;
        checked(ml_model_open(path.c_str(), &model));
        const std::unique_ptr<ml_model, void (*)(ml_model *)> opened(model, ml_model_close);
        ml_session *session = nullptr;
        checked(ml_session_create(model, threads, loops, 1, &session));
        session_.reset(session);
        logits_.resize(ml_model_vocab_size(model));
    }

    // Logits of the last token; valid until the next call.
    const std::vector<float> &run(const std::vector<int64_t> &tokens) {
        ml_run_args args{};
        args.num_sequences = 1;
        args.tokens = tokens.data();
        args.count = static_cast<uint32_t>(tokens.size());
        args.logits = logits_.data();
        args.logits_floats = logits_.size();
        checked(ml_session_run(session_.get(), &args));
        return logits_;
    }
    void reset() { checked(ml_session_reset(session_.get(), 0)); }
    // No cpus: where the engine puts its threads by itself.
    void place(const std::vector<uint32_t> &cpus) {
        checked(ml_session_place(session_.get(), cpus.data(), static_cast<uint32_t>(cpus.size())));
    }
    // The cpus its threads keep to; empty where nothing binds them.
    std::vector<uint32_t> cpus() const {
        std::vector<uint32_t> held(ml_session_cpus(session_.get(), nullptr, 0));
        ml_session_cpus(session_.get(), held.data(), static_cast<uint32_t>(held.size()));
        return held;
    }

private:
    std::unique_ptr<ml_session, void (*)(ml_session *)> session_{nullptr, ml_session_destroy};
    std::vector<float> logits_;
};

// Throws where as many threads cannot run on these cpus.
inline void check_placement(uint32_t threads, const std::vector<uint32_t> &cpus) {
    ml_context *context = nullptr;
    checked(ml_context_create(threads, &context));
    const std::unique_ptr<ml_context, void (*)(ml_context *)> made(context, ml_context_destroy);
    checked(ml_context_place(context, cpus.data(), static_cast<uint32_t>(cpus.size())));
}

// GB/s (10^9 bytes) that `threads` threads read from a buffer.
inline double bandwidth(uint32_t threads, uint64_t size_bytes, double seconds) {
    double gbps = 0;
    checked(ml_read_bandwidth(threads, size_bytes, seconds, &gbps));
    return gbps;
}

// An artifact as ml_describe_artifact tells of it.
inline std::string described(const std::string &path) {
    uint64_t bytes = 0;
    checked(ml_describe_artifact(path.c_str(), nullptr, 0, &bytes));
    std::string json(bytes, '\0');
    checked(ml_describe_artifact(path.c_str(), json.data(), bytes, &bytes));
    json.resize(bytes - 1);
    return json;
}

// The kernel set in use; throws where MOBILELOOP_KERNELS names one that this processor cannot run.
inline std::string kernels() {
    const std::string name = ml_kernels();
    require(!name.empty(), ml_last_error());
    return name;
}

} // namespace ml
