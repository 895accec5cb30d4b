// The C interface: every exception becomes a status and one sentence.
#include <algorithm>
#include <cstring>
#include <exception>
#include <new>

#include "bounds.h"
#include "error.h"
#include "format/description.h"
#include "format/model.h"
#include "kernels/kernels.h"
#include "loop/context.h"
#include "measure/bandwidth.h"
#include "measure/machine.h"
#include "session/session.h"

namespace {

// A fixed place: a sentence that says there is no memory must not need any.
constexpr size_t kMaxSentence = 4096;
thread_local char last_error[kMaxSentence];

ml_status failed(const char *sentence) noexcept {
    const size_t size = std::min(std::strlen(sentence), kMaxSentence - 1);
    std::memcpy(last_error, sentence, size);
    last_error[size] = 0;
    return ML_FAILED;
}

template <typename Body> ml_status guarded(const Body &body) noexcept {
    try {
        body();
        return ML_OK;
    } catch (const std::bad_alloc &) {
        return failed("the engine is out of memory");
    } catch (const std::exception &error) {
        return failed(error.what());
    } catch (...) {
        return failed("the engine failed for an unknown reason");
    }
}

// Refuses a second call on a context that is at work.
class Exclusive {
public:
    explicit Exclusive(std::atomic<bool> &busy) : busy_(busy) {
        ml::require(!busy_.exchange(true),
                    "this context is already running in another thread; make one context per thread");
    }
    ~Exclusive() { busy_.store(false); }
    Exclusive(const Exclusive &) = delete;
    Exclusive &operator=(const Exclusive &) = delete;

private:
    std::atomic<bool> &busy_;
};

template <typename T> T &given(T *pointer, const char *what) {
    ml::require(pointer != nullptr, "no ", what, " was given (a null pointer)");
    return *pointer;
}

// One measurement of a memory into the caller's array.
template <typename Measure>
ml_status memory_samples(const Measure &measure, ml_memory *memory, uint64_t size_bytes, uint32_t state, double seconds,
                         double *samples, uint32_t capacity, uint32_t *count) {
    return guarded([&] {
        const Exclusive exclusive(given(memory, "memory").busy);
        given(samples, "place for the samples");
        given(count, "place for the number of samples") = 0;
        ml::require(capacity > 0, "there is no place for a sample");
        const std::vector<double> found = (memory->*measure)(size_bytes, state, seconds, 1, capacity);
        std::copy(found.begin(), found.end(), samples);
        *count = static_cast<uint32_t>(found.size());
    });
}

// A text into the caller's array, and its size.
template <typename Make>
ml_status give_text(const char *what, char *out, uint64_t capacity, uint64_t *needed, const Make &make) {
    return guarded([&] {
        uint64_t &bytes = given(needed, "place for the size of the text");
        bytes = 0;
        const std::string json = make();
        bytes = json.size() + 1;
        if (!out) return;
        ml::require(capacity >= bytes, what, " takes ", bytes, " bytes where room for ", capacity, " was given");
        std::memcpy(out, json.c_str(), bytes);
    });
}

// A call that runs on the threads of a context.
class AtWork {
public:
    explicit AtWork(ml_context &context) : exclusive_(context.busy), placed_(context.placement) {}

private:
    const Exclusive exclusive_;
    const ml::Placed placed_;
};

const uint32_t *listed(const uint32_t *cpus, uint32_t num_cpus) {
    return num_cpus > 0 ? &given(cpus, "list of cpus") : nullptr;
}

void place(ml_context &context, const uint32_t *cpus, uint32_t num_cpus) {
    const Exclusive exclusive(context.busy);
    context.placement.place(listed(cpus, num_cpus), num_cpus);
}

uint32_t cpus_of(const ml_context &context, uint32_t *cpus, uint32_t capacity) {
    const ml::Cpus &held = context.placement.cpus();
    if (cpus) std::copy_n(held.begin(), std::min<size_t>(held.size(), capacity), cpus);
    return static_cast<uint32_t>(held.size());
}

} // namespace

extern "C" {

uint32_t ml_abi_version(void) { return ML_ABI_VERSION; }
const char *ml_last_error(void) { return last_error; }
const char *ml_kernels(void) {
    const char *name = "";
    guarded([&] { name = ml::current_kernels().name; });
    return name;
}
ml_status ml_use_kernels(const char *name) {
    return guarded([&] { ml::use_kernels(&given(name, "name of a kernel set")); });
}
const char *ml_available_kernels(void) {
    const char *names = "";
    guarded([&] { names = ml::available_kernels().c_str(); });
    return names;
}

uint64_t ml_kv_vector_bytes(uint32_t type, uint32_t head_dim) {
    return ml::known_kv_type(type) && head_dim >= 1 && head_dim <= ml::kMaxHeads ? ml::kv_vector_bytes(type, head_dim)
                                                                                 : 0;
}

ml_status ml_topology_json(const char *root, char *out, uint64_t capacity, uint64_t *needed) {
    return give_text("the topology", out, capacity, needed, [&] {
        return ml::read_topology(root ? root : "", root ? ml::Cpus{} : ml::allowed_cpus(), true).json();
    });
}
ml_status ml_describe_machine(const char *root, char *out, uint64_t capacity, uint64_t *needed) {
    return give_text("the machine", out, capacity, needed,
                     [&] { return ml::probe_machine(root ? root : "").json(ml::current_kernels().name); });
}
ml_status ml_describe_artifact(const char *path, char *out, uint64_t capacity, uint64_t *needed) {
    return give_text("the artifact", out, capacity, needed,
                     [&] { return ml::Description(&given(path, "path")).json(); });
}
uint32_t ml_default_threads(void) {
    uint32_t threads = 1;
    guarded([&] { threads = ml::default_threads(); });
    return threads;
}

ml_status ml_context_create(uint32_t threads, ml_context **out) {
    return guarded([&] {
        given(out, "place for the context") = nullptr;
        *out = new ml_context(threads);
    });
}
void ml_context_destroy(ml_context *context) { delete context; }
uint32_t ml_context_threads(const ml_context *context) { return context ? context->pool.size() : 0; }
ml_status ml_context_place(ml_context *context, const uint32_t *cpus, uint32_t num_cpus) {
    return guarded([&] { place(given(context, "context"), cpus, num_cpus); });
}
uint32_t ml_context_cpus(const ml_context *context, uint32_t *cpus, uint32_t capacity) {
    return context ? cpus_of(*context, cpus, capacity) : 0;
}

ml_status ml_context_stream(ml_context *context, uint32_t mode, uint32_t stream_threads) {
    return guarded([&] {
        const Exclusive exclusive(given(context, "context").busy);
        context->stream(mode, stream_threads);
    });
}

ml_status ml_embed(ml_context *context, ml_record embedding, const int64_t *tokens, uint32_t count, float *out,
                   uint32_t hidden_size) {
    return guarded([&] {
        const Exclusive exclusive(given(context, "context").busy);
        const ml::Matrix matrix = ml::parse_matrix(embedding);
        ml::require(matrix.cols == hidden_size, "the embedding has ", matrix.cols, " columns where ", hidden_size,
                    " were expected");
        if (count == 0) return;
        context->embed(matrix, &given(tokens, "list of tokens"), count, &given(out, "place for the hidden states"));
    });
}

ml_status ml_loop(ml_context *context, const ml_loop_args *args) {
    return guarded([&] {
        const AtWork at_work(given(context, "context"));
        context->loop(given(args, "argument structure"));
    });
}

ml_status ml_head(ml_context *context, ml_record head, const float *norm, float eps, const float *hidden, uint32_t rows,
                  uint32_t hidden_size, float *logits, uint32_t vocab_size) {
    return guarded([&] {
        const AtWork at_work(given(context, "context"));
        const ml::Matrix matrix = ml::parse_matrix(head);
        ml::require(matrix.cols == hidden_size && matrix.rows == vocab_size, "the head is ", matrix.rows, " by ",
                    matrix.cols, " where ", vocab_size, " by ", hidden_size, " was expected");
        ml::require(rows >= 1, "there are no rows for the head");
        given(hidden, "hidden states"), given(logits, "place for the logits");
        for (size_t begin = 0; begin < rows; begin += ml::kChunk)
            context->head(matrix, norm, eps, hidden + begin * hidden_size,
                          std::min(ml::kChunk, static_cast<uint32_t>(rows - begin)), logits + begin * vocab_size);
    });
}

ml_status ml_check_record(ml_record record, uint32_t kind) {
    return guarded([&] {
        ml::require(kind == 1 || kind == 2, "the record kind ", kind, " is unknown");
        if (kind == 1) {
            ml::parse_block(record);
        } else {
            ml::parse_matrix(record);
        }
    });
}

ml_status ml_model_open(const char *path, ml_model **out) {
    return guarded([&] {
        given(out, "place for the model") = nullptr;
        *out = new ml_model{std::make_shared<const ml::Model>(&given(path, "path"))};
    });
}
void ml_model_close(ml_model *model) { delete model; }
uint32_t ml_model_vocab_size(const ml_model *model) { return model ? model->model->vocab_size : 0; }
uint32_t ml_model_context(const ml_model *model) { return model ? model->model->context : 0; }
uint32_t ml_model_max_loops(const ml_model *model) { return model ? model->model->max_loops : 0; }
uint32_t ml_model_num_stages(const ml_model *model) {
    return model ? static_cast<uint32_t>(model->model->stages.size()) : 0;
}

ml_status ml_session_create(ml_model *model, uint32_t threads, uint32_t loops, uint32_t num_sequences,
                            ml_session **out) {
    return guarded([&] {
        given(out, "place for the session") = nullptr;
        *out = new ml_session(given(model, "model").model, threads, loops, num_sequences);
    });
}
void ml_session_destroy(ml_session *session) { delete session; }
ml_status ml_session_place(ml_session *session, const uint32_t *cpus, uint32_t num_cpus) {
    return guarded([&] { place(given(session, "session").context(), cpus, num_cpus); });
}
uint32_t ml_session_cpus(const ml_session *session, uint32_t *cpus, uint32_t capacity) {
    return session ? cpus_of(session->context(), cpus, capacity) : 0;
}
ml_status ml_session_run(ml_session *session, const ml_run_args *args) {
    return guarded([&] {
        const AtWork at_work(given(session, "session").context());
        session->run(given(args, "argument structure"));
    });
}
ml_status ml_session_set_halting(ml_session *session, const ml_halting *halting) {
    return guarded([&] {
        const Exclusive exclusive(given(session, "session").context().busy);
        session->set_halting(halting);
    });
}
ml_status ml_session_fork(ml_session *session, uint32_t from, uint32_t to) {
    return guarded([&] {
        const Exclusive exclusive(given(session, "session").context().busy);
        session->fork(from, to);
    });
}
ml_status ml_session_reset(ml_session *session, uint32_t loops) {
    return guarded([&] {
        const Exclusive exclusive(given(session, "session").context().busy);
        session->reset(loops);
    });
}
ml_status ml_session_reset_sequence(ml_session *session, uint32_t sequence) {
    return guarded([&] {
        const Exclusive exclusive(given(session, "session").context().busy);
        session->reset_sequence(sequence);
    });
}
uint32_t ml_session_position(const ml_session *session, uint32_t sequence) {
    return session ? session->position(sequence) : 0;
}

ml_status ml_session_stream(ml_session *session, uint32_t mode, uint32_t stream_threads) {
    return guarded([&] {
        const Exclusive exclusive(given(session, "session").context().busy);
        session->stream(mode, stream_threads);
    });
}
ml_status ml_session_calibrate(ml_session *session, double seconds, uint32_t *mode, uint32_t *stream_threads) {
    return guarded([&] {
        const AtWork at_work(given(session, "session").context());
        given(mode, "place for the mode");
        given(stream_threads, "place for the streaming threads");
        session->calibrate(seconds);
        *mode = session->stream_mode();
        *stream_threads = session->stream_threads();
    });
}

ml_status ml_read_bandwidth(uint32_t threads, uint64_t size_bytes, double seconds, double *gbps) {
    return guarded([&] {
        double &to = given(gbps, "place for the bandwidth"); // before the measurement, which takes seconds
        to = ml::read_bandwidth(threads, size_bytes, seconds);
    });
}

const char *ml_flush_instruction(void) { return ml::flush_instruction(); }

ml_status ml_memory_create(uint64_t max_bytes, uint32_t threads, const uint32_t *cpus, uint32_t num_cpus,
                           int huge_pages, ml_memory **out) {
    return guarded([&] {
        given(out, "place for the memory") = nullptr;
        *out = new ml_memory(max_bytes, threads, listed(cpus, num_cpus), num_cpus, huge_pages != 0);
    });
}
void ml_memory_destroy(ml_memory *memory) { delete memory; }

ml_status ml_memory_read(ml_memory *memory, uint64_t size_bytes, uint32_t state, double seconds, double *gbps,
                         uint32_t capacity, uint32_t *count) {
    return memory_samples(&ml_memory::read, memory, size_bytes, state, seconds, gbps, capacity, count);
}
ml_status ml_memory_chase(ml_memory *memory, uint64_t size_bytes, uint32_t state, double seconds, double *nanoseconds,
                          uint32_t capacity, uint32_t *count) {
    return memory_samples(&ml_memory::chase, memory, size_bytes, state, seconds, nanoseconds, capacity, count);
}
ml_status ml_memory_arithmetic(ml_memory *memory, double seconds, double *nanoseconds, uint32_t size) {
    return guarded([&] {
        const Exclusive exclusive(given(memory, "memory").busy);
        double *to = &given(nanoseconds, "place for the times"); // before the measurement, which takes its time
        ml::require(size == memory->threads(), "room for ", size, " figures was given, but there are ",
                    memory->threads(), " threads");
        const std::vector<double> found = memory->arithmetic(seconds);
        std::copy(found.begin(), found.end(), to);
    });
}

ml_status ml_session_time(ml_session *session, uint32_t on) {
    return guarded([&] {
        const Exclusive exclusive(given(session, "session").context().busy);
        session->time(on);
    });
}
ml_status ml_session_times(ml_session *session, uint64_t *ns, uint64_t size) {
    return guarded([&] {
        const Exclusive exclusive(given(session, "session").context().busy);
        session->times(&given(ns, "place for the times"), size);
    });
}
ml_status ml_session_slow_down(ml_session *session, double share) {
    return guarded([&] {
        const Exclusive exclusive(given(session, "session").context().busy);
        session->slow_down(share);
    });
}

} // extern "C"
