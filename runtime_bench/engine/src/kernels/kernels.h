// A kernel set: the arithmetic of one instruction set behind one table of functions.
//
// All sets give the same bits: integer sums are exact, and float operations are the same fused multiply-adds in the
// same order (kernels_impl.h is shared; only the vector type and the tile products differ). The scalar set is the
// truth.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "format/check.h"
#include "format/record.h"
#include "kernels/stream.h"

namespace ml {

constexpr float kPlane = 256.0f; // low steps per high step
constexpr float kLargestHalf = 65504.0f;
constexpr size_t kReadStep = 512; // bytes of one round of the read loop

// Rows of activations. `floats` is [tokens, stride]; the others exist where an integer matrix reads them.
//
// A group of 32 values is held as x = scale * (256 * high + low): two 8-bit planes, 15 bits in all. One plane alone
// costs a KL of 0.0026 on SmolLM2-135M and 0.011 when every block runs twice (docs/lab-log.md), and decoding waits for
// memory anyway. high and low are [tokens, stride]; the others [tokens, stride / 32] and follow from a group's sum of
// 256 high + low: what a minimum is multiplied with, and what codes stored around 8 have too much.
struct Activations {
    float *floats = nullptr;
    int8_t *high = nullptr, *low = nullptr;
    float *scales = nullptr;
    float *offsets = nullptr;  // scale * sum
    int32_t *eights = nullptr; // -8 * sum
    size_t stride = 0;         // a multiple of 32; padding is zero
};

// One group of one token, as the tile products read it.
struct Planes {
    const int8_t *high, *low;
    int32_t eights;
};

// One token's query heads that share a KV head.
struct AttentionArgs {
    const float *query; // [heads, head_dim]
    const void *keys;   // [length] vectors of kv_vector_bytes
    const void *values; // the same
    uint32_t length;    // at least 1
    uint32_t head_dim;
    uint32_t heads;
    float scale;
    float *out; // [heads, head_dim]
};

// What depends on the type of a KV cache.
struct KvKernels {
    void (*attend)(const AttentionArgs &args);
    // Write one vector. Beyond +-65504 a float16 cache holds +-65504, since one infinite key would make every later
    // token not a number. A value that is not a number stays so, but not as an 8-bit code.
    void (*store)(const float *x, size_t size, uint8_t *out);
};

struct Kernels {
    const char *name;
    void (*rms_norm)(const float *x, const float *scale, float eps, size_t size, float *out);
    // Fill all but the floats of rows [begin, end) from their floats.
    void (*quantize)(const Activations &activations, size_t begin, size_t end);
    // y[token * y_stride + row] (+)= matrix row . activations row, for row groups [begin, end).
    // `stream`, where it is not null, advances with the products of a single token.
    void (*multiply)(const Matrix &matrix, uint32_t begin, uint32_t end, const Activations &activations, size_t tokens,
                     float *y, size_t y_stride, bool accumulate, Stream *stream);
    // gate[i] = silu(gate[i]) * up[i]
    void (*silu_multiply)(float *gate, const float *up, size_t size);
    KvKernels kv_f32, kv_f16, kv_i8;
    // Loads every byte, in the widest loads of the set, and does nothing else: the loop of the bandwidth measurement.
    // `bytes` is a multiple of kReadStep.
    void (*read)(const void *data, size_t bytes);

    const KvKernels &kv(uint32_t type) const { return type == ML_KV_F32 ? kv_f32 : type == ML_KV_F16 ? kv_f16 : kv_i8; }
};

const Kernels &scalar_kernels();
#if defined(ML_HAVE_AVX2)
const Kernels &avx2_kernels();
#endif
#if defined(ML_HAVE_AVXVNNI)
const Kernels &avxvnni_kernels();
#endif
#if defined(ML_HAVE_NEON)
const Kernels &neon_kernels();
const Kernels &dotprod_kernels();
const Kernels &i8mm_kernels();
#endif

// The set in force, and the sets this processor can run.
const Kernels &current_kernels();
void use_kernels(const std::string &name);
const std::string &available_kernels();

} // namespace ml
