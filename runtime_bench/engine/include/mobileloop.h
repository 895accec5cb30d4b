/* The C interface of the mobileloop engine: the one way in for Python, the ExecuTorch and ONNX Runtime operators,
 * the command-line tools and the Android app.
 *
 * Every function that can fail returns ml_status; ml_last_error() then gives one sentence for the calling thread.
 * A null pointer is refused in the same way unless its argument may be NULL; destroying or closing NULL does nothing,
 * and a number asked of NULL is 0. Where a function makes something, *out is NULL after a failure.
 * All memory given to the engine stays the caller's. Records (packed blocks and matrices) are untrusted: each is
 * checked in full before a byte of it is used (docs/format.md).
 */
#ifndef MOBILELOOP_H
#define MOBILELOOP_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define ML_API __declspec(dllexport)
#else
#define ML_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define ML_ABI_VERSION 2u

typedef enum { ML_OK = 0, ML_FAILED = 1 } ml_status;

/* Type of a KV cache. A cached vector of one head takes 4 * head_dim bytes (float32), 2 * head_dim (float16), or
 * head_dim + 2 * ceil(head_dim / 32) (int8: codes, then a float16 scale per 32 of them). */
typedef enum { ML_KV_F32 = 32, ML_KV_F16 = 16, ML_KV_I8 = 8 } ml_kv_type;

/* A packed record: a block, an embedding or a head. Must be aligned to 4 bytes. */
typedef struct {
    const void *data;
    uint64_t size_bytes;
} ml_record;

/* Threads and scratch memory. One call at a time per context; a second one is refused, not raced. */
typedef struct ml_context ml_context;

/* A memory-mapped artifact (read-only, may be shared by sessions), and sequences that run over it together. */
typedef struct ml_model ml_model;
typedef struct ml_session ml_session;

/* Whether a row stops before its loops are run, decided per row on its state s_t behind loop t (s_0 entered the
 * stage), without the head:
 *   latent difference  |s_t - s_(t-1)| / |s_t| < threshold (Huginn, arXiv 2502.05171)
 *   cosine             1 - cos(s_t, s_(t-1)) < threshold; a zero state has no direction and stops nothing
 *   exit gate          1 - prod(1 - sigmoid(gate . s_i + gate_bias), i = 1 .. t) >= threshold (Ouro, arXiv 2510.25741)
 * What is not a number stops nothing. A row that stopped keeps its state. */
typedef enum {
    ML_HALT_NONE = 0,
    ML_HALT_LATENT_DIFFERENCE = 1,
    ML_HALT_COSINE = 2,
    ML_HALT_EXIT_GATE = 3
} ml_halting_rule;

typedef struct {
    uint32_t rule;      /* an ml_halting_rule */
    uint32_t min_loops; /* at least 1, unless the rule is none */
    double threshold;   /* at least 0; of the exit gate above 0 and at most 1 */
    const float *gate;  /* [hidden] of the exit gate; NULL for the other rules */
    float gate_bias;
} ml_halting;

/* One sequence of a loop call: its own KV caches, each [num_slots, kv_heads, capacity] vectors, and the position of its
 * first token in this call. */
typedef struct {
    void *key_cache;
    void *value_cache;
    uint64_t cache_bytes; /* of each of the two */
    uint32_t position;
} ml_sequence;

/* One call of the loop operator: a stage's blocks applied `loops` times to `tokens` rows of every sequence.
 *
 * For every loop: h <- h + damping * (f(h) - h), f being all blocks once, in order; then, where loop_end_norm is
 * given, h <- rms_norm(h). Then rows may halt. Application i of the call (loop * num_blocks + place) owns KV slot i of
 * the caches, which are updated in place at position .. position + tokens - 1. A row that ran fewer than filled_loops
 * loops leaves the keys and values of its last loop in the slots of the others, so that later tokens may run more loops
 * than it did. Sequences see nothing of each other: each gets the bits that it would get alone. No two caches of a call
 * may overlap.
 */
typedef struct {
    const ml_record *blocks;
    uint32_t num_blocks;
    uint32_t loops;
    float damping;              /* 1 is the plain loop */
    const float *loop_end_norm; /* [hidden] or NULL */
    float loop_end_norm_eps;
    const float *hidden_in; /* [num_sequences, tokens, hidden] */
    float *hidden_out;      /* the same shape; may equal hidden_in */
    uint32_t hidden_size;
    uint32_t tokens; /* per sequence */
    const ml_sequence *sequences;
    uint32_t num_sequences;
    uint32_t kv_type; /* an ml_kv_type; no enum here, since any number may arrive */
    /* 0: a token attends to itself and to what lies before it; 1: also to the later tokens of its sequence in this
     * call. */
    uint32_t full_attention;
    uint32_t num_slots;
    uint32_t capacity;       /* tokens per slot */
    const ml_record *next;   /* hint: what is read after this stage; may be NULL */
    uint32_t num_next;       /* records in `next` */
    ml_halting halting;      /* zeroed: none */
    uint32_t filled_loops;   /* 0 is `loops`, and it is never less */
    uint32_t *applied_loops; /* out: [num_sequences, tokens] loops that each row ran; may be NULL */
} ml_loop_args;

ML_API uint32_t ml_abi_version(void);
ML_API const char *ml_last_error(void);

/* The kernel set in use ("scalar", "avx2", ...), chosen from the processor's features; ml_use_kernels overrides it
 * for contexts made afterwards, as the environment variable MOBILELOOP_KERNELS does. */
ML_API const char *ml_kernels(void);
ML_API ml_status ml_use_kernels(const char *name);
/* Comma-separated kernel sets that this processor can run. */
ML_API const char *ml_available_kernels(void);

/* Bytes of one cached vector of an ml_kv_type; 0 for another type or a head_dim outside 1 to 4096. */
ML_API uint64_t ml_kv_vector_bytes(uint32_t type, uint32_t head_dim);

/* How what is read next (`next` of a loop call) is brought towards the cache while a stage's blocks are applied again.
 * It acts on single rows of stages that loop, and changes no result. */
typedef enum {
    ML_STREAM_OFF = 0,
    ML_STREAM_PREFETCH = 1, /* from what may be the last loop on, computing threads ask for its first part, a few lines
                               at every tile, with prefetch instructions */
    ML_STREAM_CORE = 2      /* stream_threads of the threads do nothing but read it, all of it and from the first loop
                               on, into the cache that they share with the others */
} ml_stream;

/* The processor as one JSON document, read from sysfs: the cpus that the calling thread may run on with the caches
 * around them, and their clusters, which are the cores of one kind, the strongest first (docs/measuring.md lists the
 * keys). What the system hides is 0 or an empty list. `root`: NULL is this machine; else a folder that holds another
 * machine's /sys, of which all cpus that are online count. *needed gets the bytes of the text, its final 0 included;
 * out NULL only asks for them, and too small a capacity is refused. */
ML_API ml_status ml_topology_json(const char *root, char *out, uint64_t capacity, uint64_t *needed);
/* The machine as one JSON document, by the same conventions: the processor's name, kinds of cores and their clocks,
 * caches, memory, system, whether it is virtual or emulated, and the quota of cpu time that a container's control group
 * has, in cores (docs/measuring.md lists the keys). What cannot be read is null. `root` holds proc, sys and etc. */
ML_API ml_status ml_describe_machine(const char *root, char *out, uint64_t capacity, uint64_t *needed);
/* An artifact as one JSON document, by the same conventions: all that its metadata says except the tokenizer, of which
 * `tokenizer` says whether it is there, and what one of its tokens moves (docs/format.md). It is read and checked in
 * full, as ml_model_open does. */
ML_API ml_status ml_describe_artifact(const char *path, char *out, uint64_t capacity, uint64_t *needed);
/* How many threads suit this machine: the big cores among the cpus that the calling thread may run on (all cores where
 * they are alike), SMT siblings counted once, or as many whole cores as a control group's quota of cpu time pays for.
 */
ML_API uint32_t ml_default_threads(void);

ML_API ml_status ml_context_create(uint32_t threads, ml_context **out);
ML_API void ml_context_destroy(ml_context *context);
ML_API uint32_t ml_context_threads(const ml_context *context);
/* mode is an ml_stream, OFF at first; stream_threads is for CORE, at least 1 and below the number of threads. */
ML_API ml_status ml_context_stream(ml_context *context, uint32_t mode, uint32_t stream_threads);
/* Which cpus the threads run on. As many cpus as threads: thread i on cpus[i] alone, the caller of a call being thread
 * 0. More or fewer: every thread on any of them. num_cpus 0: as the context was made, which is on the big cores where
 * the machine has others too and the threads are no more than those, and else nowhere in particular. The workers are
 * moved at once; a calling thread is moved for the length of each call and gets its own affinity back at its end. A cpu
 * that is listed twice, does not exist or is not allowed is refused, as is every list on a system other than Linux and
 * Android; the threads are then where they were. */
ML_API ml_status ml_context_place(ml_context *context, const uint32_t *cpus, uint32_t num_cpus);
/* How many cpus the threads keep to (0: nowhere in particular); the first `capacity` of them go to `cpus`. */
ML_API uint32_t ml_context_cpus(const ml_context *context, uint32_t *cpus, uint32_t capacity);

/* tokens [count] int64 -> out [count, hidden] float32. */
ML_API ml_status ml_embed(ml_context *context, ml_record embedding, const int64_t *tokens, uint32_t count, float *out,
                          uint32_t hidden_size);
ML_API ml_status ml_loop(ml_context *context, const ml_loop_args *args);
/* hidden [rows, hidden] -> logits [rows, vocab]; norm [hidden] is applied first unless it is NULL. */
ML_API ml_status ml_head(ml_context *context, ml_record head, const float *norm, float eps, const float *hidden,
                         uint32_t rows, uint32_t hidden_size, float *logits, uint32_t vocab_size);

/* Check a record without running it; kind is 1 for a block, 2 for a matrix. */
ML_API ml_status ml_check_record(ml_record record, uint32_t kind);

ML_API ml_status ml_model_open(const char *path, ml_model **out);
ML_API void ml_model_close(ml_model *model);
ML_API uint32_t ml_model_vocab_size(const ml_model *model);
ML_API uint32_t ml_model_context(const ml_model *model);
ML_API uint32_t ml_model_max_loops(const ml_model *model);
ML_API uint32_t ml_model_num_stages(const ml_model *model);

/* A session keeps its model open; closing the model first is allowed. loops 0 takes the artifact's own count. Each of
 * its num_sequences (at most 1024) has a KV cache and a position of its own; memory is touched as they grow. */
ML_API ml_status ml_session_create(ml_model *model, uint32_t threads, uint32_t loops, uint32_t num_sequences,
                                   ml_session **out);
ML_API void ml_session_destroy(ml_session *session);
/* As ml_context_place and ml_context_cpus. */
ML_API ml_status ml_session_place(ml_session *session, const uint32_t *cpus, uint32_t num_cpus);
ML_API uint32_t ml_session_cpus(const ml_session *session, uint32_t *cpus, uint32_t capacity);

/* One run: `count` tokens of every listed sequence, each behind what its sequence ran before, in one pass over the
 * weights. After a failure no sequence has moved. */
typedef struct {
    const uint32_t *sequences; /* [num_sequences], all different; NULL is 0 .. num_sequences - 1 */
    uint32_t num_sequences;
    const int64_t *tokens; /* [num_sequences, count] */
    uint32_t count;
    int all_logits;
    float
        *logits; /* out: [num_sequences, vocab] of the last tokens, or with all_logits [num_sequences, count, vocab] */
    uint64_t logits_floats;
    uint32_t loops;          /* of the looped stages in this run; 0 is the session's count */
    uint32_t *applied_loops; /* out: [stages, num_sequences, count]; may be NULL */
    uint64_t applied_size;   /* elements of applied_loops */
} ml_run_args;

ML_API ml_status ml_session_run(ml_session *session, const ml_run_args *args);
/* The halting rule of the looped stages from here on; NULL is each stage's own. The exit gate is the artifact's: `gate`
 * is NULL, and gate_bias is not read. */
ML_API ml_status ml_session_set_halting(ml_session *session, const ml_halting *halting);
/* Make `to` a copy of sequence `from`: a prompt that several sequences share runs once. */
ML_API ml_status ml_session_fork(ml_session *session, uint32_t from, uint32_t to);
/* Forget every sequence; loops 0 keeps the count. */
ML_API ml_status ml_session_reset(ml_session *session, uint32_t loops);
ML_API ml_status ml_session_reset_sequence(ml_session *session, uint32_t sequence);
/* Tokens that a sequence has run; 0 for a sequence that the session lacks. */
ML_API uint32_t ml_session_position(const ml_session *session, uint32_t sequence);

ML_API ml_status ml_session_stream(ml_session *session, uint32_t mode, uint32_t stream_threads);
/* Times tokens of this session's loops under every streaming mode that its threads allow, in turn, for about `seconds`,
 * and keeps the fastest (OFF unless another is faster by 2%). No sequence may have run yet, and none has afterwards.
 * *mode and *stream_threads say what was kept. */
ML_API ml_status ml_session_calibrate(ml_session *session, double seconds, uint32_t *mode, uint32_t *stream_threads);

/* Median read bandwidth in GB/s (10^9 bytes) of `threads` threads over one shared buffer of size_bytes, each
 * reading its own part, at least 512 bytes, again and again for about `seconds`. */
ML_API ml_status ml_read_bandwidth(uint32_t threads, uint64_t size_bytes, double seconds, double *gbps);

/* Memory that threads read so that their speed is known, and what the caches hold of it before each pass: all that fits
 * (warm); nothing, because an instruction flushed every line from every cache of the processor (a cache behind those,
 * as the system cache of some phones, may keep them); or nothing but what another buffer left, which each thread read
 * before: twice the last-level cache, 64 MiB where its size is hidden, at most 256 MiB. */
typedef struct ml_memory ml_memory;
typedef enum { ML_WARM = 0, ML_COLD_FLUSHED = 1, ML_COLD_READ = 2 } ml_memory_state;

/* "clflush", "dc civac", or "" where ML_COLD_FLUSHED is refused because there is none. */
ML_API const char *ml_flush_instruction(void);
/* Room for working sets of up to max_bytes (4 KiB to 64 GiB), which is touched only as it is read. cpus and num_cpus
 * as for ml_context_place. huge_pages: ask for them, or for none; a system need not follow. */
ML_API ml_status ml_memory_create(uint64_t max_bytes, uint32_t threads, const uint32_t *cpus, uint32_t num_cpus,
                                  int huge_pages, ml_memory **out);
ML_API void ml_memory_destroy(ml_memory *memory);
/* Read bandwidth in GB/s (10^9 bytes): every thread reads its own part of size_bytes, at least 512 bytes, again and
 * again. Takes about `seconds` and gives 1 to `capacity` samples, each of half a millisecond or of one pass where that
 * is longer or the state is cold. */
ML_API ml_status ml_memory_read(ml_memory *memory, uint64_t size_bytes, uint32_t state, double seconds, double *gbps,
                                uint32_t capacity, uint32_t *count);
/* Nanoseconds of one dependent load: thread 0 follows a chain through all lines of size_bytes in random order. Cold,
 * it follows it for at most 8192 lines behind each eviction. The set must fit one thread's part of max_bytes. */
ML_API ml_status ml_memory_chase(ml_memory *memory, uint64_t size_bytes, uint32_t state, double seconds,
                                 double *nanoseconds, uint32_t capacity, uint32_t *count);
/* How fast the cores compute at this moment: all threads run one fixed loop of arithmetic out of registers for about
 * `seconds`, in 3 to 4096 laps of some 50 microseconds. Gives each thread's median nanoseconds of a step; `size` is the
 * number of threads. The same core takes up to twice as long while its other hardware thread is busy, whoever uses that
 * one. */
ML_API ml_status ml_memory_arithmetic(ml_memory *memory, double seconds, double *nanoseconds, uint32_t size);

/* Whether runs note where their time goes (1) or not (0, as at first). It takes a clock read per loop. Refused where
 * ml_model_num_stages * ml_model_max_loops is more than 2^20. */
ML_API ml_status ml_session_time(ml_session *session, uint32_t on);
/* Nanoseconds of the last run by the clock of its calling thread: ns[stage * ml_model_max_loops + loop], 0 for loops
 * that did not run, then those of the head. size is ml_model_num_stages * ml_model_max_loops + 1. Waking the threads
 * counts to a stage's first loop, waiting for the last of them to its last one; what a run does between the stages
 * (embedding, copies of KV slots) counts nowhere. Refused where the last run was not timed, or failed, or was one of
 * ml_session_calibrate. */
ML_API ml_status ml_session_times(ml_session *session, uint64_t *ns, uint64_t size);
/* For tests of what compares measurements: every run waits until it took 1 + share times its own time. share is 0 (as
 * at first) to 10; results stay the same. */
ML_API ml_status ml_session_slow_down(ml_session *session, double share);

#ifdef __cplusplus
}
#endif
#endif
