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

#define ML_ABI_VERSION 1u

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

/* A memory-mapped artifact (read-only, may be shared by sessions) and one sequence over it. */
typedef struct ml_model ml_model;
typedef struct ml_session ml_session;

/* One call of the loop operator: a stage's blocks applied `loops` times to `tokens` rows.
 *
 * For every loop: h <- h + damping * (f(h) - h), f being all blocks once, in order; then, where loop_end_norm is
 * given, h <- rms_norm(h). Application i of the call (loop * num_blocks + place) owns KV slot i of the caches,
 * each [num_slots, kv_heads, capacity] vectors, updated in place at position .. position + tokens - 1.
 */
typedef struct {
    const ml_record *blocks;
    uint32_t num_blocks;
    uint32_t loops;
    float damping;              /* 1 is the plain loop */
    const float *loop_end_norm; /* [hidden] or NULL */
    float loop_end_norm_eps;
    const float *hidden_in; /* [tokens, hidden] */
    float *hidden_out;      /* [tokens, hidden]; may equal hidden_in */
    uint32_t hidden_size;
    uint32_t tokens;
    uint32_t position; /* of the first token */
    void *key_cache;
    void *value_cache;
    uint64_t cache_bytes; /* of each of the two */
    ml_kv_type kv_type;
    uint32_t
        full_attention; /* 0: a token attends to itself and what lies before it; 1: to all tokens of the call too */
    uint32_t num_slots;
    uint32_t capacity;       /* tokens per slot */
    const ml_record *next;   /* hint: what is read after this stage; may be NULL */
    uint32_t num_next;       /* records in `next` */
    uint32_t *applied_loops; /* out: loops that ran; may be NULL */
} ml_loop_args;

ML_API uint32_t ml_abi_version(void);
ML_API const char *ml_last_error(void);

/* The kernel set in use ("scalar", "avx2", ...), chosen from the processor's features; ml_use_kernels overrides it
 * for contexts made afterwards, as the environment variable MOBILELOOP_KERNELS does. */
ML_API const char *ml_kernels(void);
ML_API ml_status ml_use_kernels(const char *name);
/* Comma-separated kernel sets that this processor can run. */
ML_API const char *ml_available_kernels(void);

/* Bytes of one cached vector; 0 for another type or a head_dim outside 1 to 4096. */
ML_API uint64_t ml_kv_vector_bytes(ml_kv_type type, uint32_t head_dim);

ML_API ml_status ml_context_create(uint32_t threads, ml_context **out);
ML_API void ml_context_destroy(ml_context *context);
ML_API uint32_t ml_context_threads(const ml_context *context);

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

/* A session keeps its model open; closing the model first is allowed. loops 0 takes the artifact's own count. */
ML_API ml_status ml_session_create(ml_model *model, uint32_t threads, uint32_t loops, ml_session **out);
ML_API void ml_session_destroy(ml_session *session);
/* Run tokens behind what ran before; logits is [vocab] of the last token, or [count, vocab] with all_logits. */
ML_API ml_status ml_session_run(ml_session *session, const int64_t *tokens, uint32_t count, int all_logits,
                                float *logits, uint64_t logits_floats);
/* Forget the sequence; loops 0 keeps the count. */
ML_API ml_status ml_session_reset(ml_session *session, uint32_t loops);
ML_API uint32_t ml_session_position(const ml_session *session);

/* Median read bandwidth in GB/s (10^9 bytes) of `threads` threads over one shared buffer of size_bytes, each
 * reading its own part again and again for about `seconds`. */
ML_API ml_status ml_read_bandwidth(uint32_t threads, uint64_t size_bytes, double seconds, double *gbps);

#ifdef __cplusplus
}
#endif
#endif
