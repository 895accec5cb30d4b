// The engine's own tests: kernels against the scalar truth, threads, and untrusted bytes. Meant to run under the
// sanitizers too, so every buffer given to a kernel or a parser has exactly the size it promises.
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <new>
#include <random>
#include <sstream>
#include <string>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "bounds.h"
#include "checks.h"
#include "error.h"
#include "format/half.h"
#include "format/json.h"
#include "format/record.h"
#include "kernels/kernels.h"
#include "loop/context.h"
#include "measure/bandwidth.h"
#include "mobileloop.h"
#include "random.h"
#include "threads/threads.h"

using namespace ml;

// Every allocation of the process is counted. Not inlined, because GCC then takes the pair of malloc and free for a
// mismatch.
#define ML_NOINLINE __attribute__((noinline))
std::atomic<uint64_t> allocations{0};

ML_NOINLINE void *operator new(size_t size) {
    allocations++;
    if (void *made = std::malloc(size ? size : 1)) return made;
    throw std::bad_alloc();
}
ML_NOINLINE void *operator new(size_t size, std::align_val_t alignment) {
    allocations++;
    const size_t step = static_cast<size_t>(alignment);
    if (size <= SIZE_MAX - step)
        if (void *made = std::aligned_alloc(step, (size + step) / step * step)) return made;
    throw std::bad_alloc();
}
ML_NOINLINE void operator delete(void *made) noexcept { std::free(made); }
ML_NOINLINE void operator delete(void *made, size_t) noexcept { std::free(made); }
ML_NOINLINE void operator delete(void *made, std::align_val_t) noexcept { std::free(made); }
ML_NOINLINE void operator delete(void *made, size_t, std::align_val_t) noexcept { std::free(made); }

namespace {

// ThreadSanitizer looks at threads only, and is slow: leave out what runs on one.
#if !defined(__has_feature)
#define __has_feature(feature) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
constexpr bool kThreadsOnly = true;
#else
constexpr bool kThreadsOnly = false;
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = kThreadsOnly;
#endif

std::mt19937 rng(7);

float uniform(float low, float high) { return std::uniform_real_distribution<float>(low, high)(rng); }
uint32_t below(uint32_t bound) { return static_cast<uint32_t>(rng() % bound); }

std::vector<float> random_floats(size_t count, float size = 2) {
    std::vector<float> values(count);
    for (float &value : values) value = uniform(-size, size);
    return values;
}

uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

bool same_bits(const std::vector<float> &a, const std::vector<float> &b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

bool refuses(const std::function<void()> &body, const std::string &words = "") {
    try {
        body();
    } catch (const Error &error) {
        return std::string(error.what()).find(words) != std::string::npos;
    }
    return false;
}

// Every kernel set of this processor, or the one of that name.
std::vector<const Kernels *> every_set(const std::string &only = {}) {
    std::vector<const Kernels *> sets;
    std::istringstream names(available_kernels());
    for (std::string name; std::getline(names, name, ',');) {
        if (!only.empty() && name != only) continue;
        use_kernels(name);
        sets.push_back(&current_kernels());
        CHECK(name == sets.back()->name);
    }
    CHECK(!sets.empty());
    return sets;
}

// -- halves ---------------------------------------------------------------------------------------

uint16_t expected_half(float x) { return float_to_half(std::isnan(x) ? x : std::clamp(x, -65504.0f, 65504.0f)); }

std::vector<uint16_t> to_halves(const Kernels &kernels, const std::vector<float> &values) {
    std::vector<uint8_t> bytes(2 * values.size());
    std::vector<uint16_t> halves(values.size());
    kernels.kv_f16.store(values.data(), values.size(), bytes.data());
    std::memcpy(halves.data(), bytes.data(), bytes.size());
    return halves;
}

void test_halves(const Kernels &kernels) {
    std::vector<float> all(65536);
    int wrong = 0;
    for (uint32_t h = 0; h < 65536; h++) {
        all[h] = half_to_float(static_cast<uint16_t>(h));
        const bool nan = (h & 0x7FFFu) > 0x7C00u;
        wrong += std::isnan(all[h]) != nan;
        wrong += !nan && float_to_half(all[h]) != h;
        const double magnitude = (h >> 10 & 31) ? std::ldexp(1024 + (h & 1023), static_cast<int>(h >> 10 & 31) - 25)
                                                : std::ldexp(h & 1023, -24);
        if ((h & 0x7FFFu) < 0x7C00u) wrong += all[h] != static_cast<float>(h & 0x8000u ? -magnitude : magnitude);
    }
    CHECK(wrong == 0);
    const std::vector<uint16_t> converted = to_halves(kernels, all);
    for (uint32_t h = 0; h < 65536; h++) wrong += converted[h] != expected_half(all[h]);
    CHECK(wrong == 0);

    // Between two halves, at ties, beyond the largest, and anything at all.
    std::vector<float> values;
    for (uint32_t h = 0; h < 0x7BFF; h++) {
        const float low = all[h], high = all[h + 1], middle = low + (high - low) / 2;
        for (const float x : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f), -middle})
            values.push_back(x);
        wrong += float_to_half(middle) != (h & 1 ? h + 1 : h); // ties to even
        wrong += float_to_half(std::nextafter(middle, -1e9f)) != h;
        wrong += float_to_half(std::nextafter(middle, 1e9f)) != h + 1;
    }
    CHECK(wrong == 0);
    for (const float x : {65504.0f, 65519.99f, 65520.0f, 1e38f, INFINITY, -INFINITY, 0.0f, -0.0f, 1e-45f, -1e-40f})
        values.push_back(x);
    for (int i = 0; i < 200000; i++) {
        const uint32_t bits = static_cast<uint32_t>(rng());
        float value;
        std::memcpy(&value, &bits, sizeof value);
        values.push_back(value);
    }
    values.push_back(1.0f); // a tail behind the last whole vector
    const std::vector<uint16_t> out = to_halves(kernels, values);
    for (size_t i = 0; i < values.size(); i++) wrong += out[i] != expected_half(values[i]);
    CHECK(wrong == 0);
}

// What overflows a float16 cache saturates, in whole vectors and in tails, and what is not a number stays so.
void test_halves_saturate(const Kernels &kernels) {
    const float beyond[] = {65504.0f, 65505.0f, 65519.99f, 65520.0f, 70000.0f, 1e38f, INFINITY};
    CHECK(float_to_half(70000.0f) == 0x7C00); // the conversion itself stays that of IEEE 754
    for (size_t size = 1; size <= 20; size++)
        for (const float value : beyond) {
            std::vector<float> values(size, value);
            for (size_t i = 1; i < size; i += 2) values[i] = -value;
            const std::vector<uint16_t> halves = to_halves(kernels, values);
            for (size_t i = 0; i < size; i++) CHECK(halves[i] == (i % 2 ? 0xFBFF : 0x7BFF));
            values.assign(size, size % 2 ? NAN : -NAN);
            for (const uint16_t half : to_halves(kernels, values)) CHECK((half & 0x7FFF) > 0x7C00);
        }
}

// Length 1 gives the value row itself, so every half can be read back through the kernel's own loads.
void test_half_loads(const Kernels &kernels) {
    int wrong = 0;
    for (uint32_t h = 0; h < 65536; h += 8) {
        uint16_t keys[8] = {}, values[8];
        float query[8] = {}, out[8];
        for (uint32_t i = 0; i < 8; i++) values[i] = static_cast<uint16_t>(h + i);
        kernels.kv_f16.attend({query, keys, values, 1, 8, 1, 1.0f, out});
        for (uint32_t i = 0; i < 8; i++) {
            const float expected = half_to_float(values[i]);
            wrong += std::isnan(expected) ? !std::isnan(out[i]) : !(out[i] == expected);
        }
    }
    CHECK(wrong == 0);
}

// -- vectors --------------------------------------------------------------------------------------

void test_rms_norm(const Kernels &kernels, const Kernels &truth) {
    for (size_t size = 1; size <= 80; size++) {
        const std::vector<float> x = random_floats(size), scale = random_floats(size);
        std::vector<float> out(size), expected(size);
        kernels.rms_norm(x.data(), scale.data(), 1e-5f, size, out.data());
        truth.rms_norm(x.data(), scale.data(), 1e-5f, size, expected.data());
        CHECK(same_bits(out, expected));
        double sum = 0, worst = 0;
        for (const float v : x) sum += double{v} * v;
        const double inverse = 1 / std::sqrt(sum / static_cast<double>(size) + 1e-5);
        for (size_t i = 0; i < size; i++) worst = std::max(worst, std::fabs(x[i] * inverse * scale[i] - out[i]));
        CHECK(worst < 1e-5);
    }
    const std::vector<float> zeros(40), ones(40, 1.0f);
    std::vector<float> out(40);
    kernels.rms_norm(zeros.data(), ones.data(), 1e-5f, 40, out.data());
    CHECK(same_bits(out, zeros));
}

struct Rows {
    std::vector<float> floats, scales, offsets;
    std::vector<int32_t> eights;
    std::vector<int8_t> high, low;
    Activations view;
    Rows(size_t tokens, size_t stride)
        : floats(tokens * stride), scales(tokens * stride / kGroup), offsets(tokens * stride / kGroup),
          eights(tokens * stride / kGroup), high(tokens * stride), low(tokens * stride) {
        view.floats = floats.data();
        view.high = high.data();
        view.low = low.data();
        view.scales = scales.data();
        view.offsets = offsets.data();
        view.eights = eights.data();
        view.stride = stride;
    }
    int code(size_t i) const { return 256 * high[i] + low[i]; }
    double value(size_t i) const { return double{scales[i / kGroup]} * code(i); }
};

void test_quantize(const Kernels &kernels, const Kernels &truth) {
    for (int round = 0; round < 60; round++) {
        const size_t tokens = 1 + below(4), stride = kGroup * (1 + below(3));
        Rows a(tokens, stride), b(tokens, stride);
        const float sizes[] = {1, 1e-3f, 1e-42f, 3e38f, 0};
        for (float &x : a.floats) x = uniform(-1, 1) * sizes[round % 5];
        if (round % 7 == 6) a.floats[below(static_cast<uint32_t>(a.floats.size()))] = INFINITY;
        if (round % 7 == 5) a.floats[0] = -0.0f;
        std::copy(a.floats.begin(), a.floats.end(), b.floats.begin());
        kernels.quantize(a.view, 0, tokens);
        truth.quantize(b.view, 0, tokens);
        CHECK(a.high == b.high);
        CHECK(a.low == b.low);
        CHECK(same_bits(a.scales, b.scales));
        CHECK(same_bits(a.offsets, b.offsets));
        CHECK(a.eights == b.eights);
        if (round % 5 > 1 || round % 7 == 6) continue;
        double worst = 0, worst_at_end = 0; // in steps of the low plane, which ends at 127 of the 128 it may need
        for (size_t i = 0; i < a.floats.size(); i++) {
            double &largest = std::abs(a.low[i]) == 127 ? worst_at_end : worst;
            largest = std::max(largest, std::fabs(a.value(i) - a.floats[i]) / a.scales[i / kGroup]);
        }
        CHECK(worst <= 0.51);
        CHECK(worst_at_end <= 1.01);
        int sum = 0;
        for (size_t i = 0; i < kGroup; i++) sum += a.code(i);
        CHECK(a.eights[0] == -8 * sum);
        CHECK(a.offsets[0] == a.scales[0] * static_cast<float>(sum));
    }
    Rows bad(1, kGroup); // whatever the codes become, they must be codes
    for (float &x : bad.floats) x = NAN;
    kernels.quantize(bad.view, 0, 1);
    for (const std::vector<int8_t> *plane : {&bad.high, &bad.low})
        CHECK(std::all_of(plane->begin(), plane->end(), [](int8_t code) { return code >= -127; }));
}

double silu(double x) { return x / (1 + std::exp(-x)); }

void test_silu(const Kernels &kernels, const Kernels &truth) {
    for (size_t size = 1; size <= 40; size++) {
        std::vector<float> gate = random_floats(size, 10), same = gate;
        const std::vector<float> up = random_floats(size);
        if (size == 40) gate[3] = same[3] = -INFINITY, gate[4] = same[4] = INFINITY, gate[5] = same[5] = NAN;
        kernels.silu_multiply(gate.data(), up.data(), size);
        truth.silu_multiply(same.data(), up.data(), size);
        bool equal = true;
        for (size_t i = 0; i < size; i++)
            equal &= bits_of(gate[i]) == bits_of(same[i]) || (std::isnan(gate[i]) && std::isnan(same[i]));
        CHECK(equal);
    }
}

// The exponential through its two users: silu for positive arguments, attention for negative ones.
void test_exponential(const Kernels &kernels) {
    double worst = 0;
    for (float x = 0; x < 86; x += 0.037f) {
        float gate = -x;
        const float one = 1;
        kernels.silu_multiply(&gate, &one, 1);
        if (x > 0) worst = std::max(worst, std::fabs(gate / silu(-double{x}) - 1));
    }
    CHECK(worst < 6e-7);
    worst = 0;
    for (float x = 0; x < 86; x += 0.041f) {
        const float query[8] = {1}, keys[16] = {0, 0, 0, 0, 0, 0, 0, 0, -x}, values[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1};
        float out[8];
        kernels.kv_f32.attend({query, keys, values, 2, 8, 1, 1.0f, out});
        const double e = std::exp(-double{x});
        worst = std::max(worst, std::fabs(out[0] / (e / (1 + e)) - 1));
    }
    CHECK(worst < 6e-7);
}

// -- matrices -------------------------------------------------------------------------------------

struct Weights {
    std::vector<uint8_t> tiles;
    Matrix matrix;
    Weights(Scheme scheme, uint32_t rows, uint32_t groups, uint32_t group = kGroup) {
        matrix.scheme = scheme;
        matrix.rows = rows;
        matrix.cols = groups * group;
        matrix.group = group;
        matrix.row_groups = (rows + kTileRows - 1) / kTileRows;
        matrix.groups = groups;
        const size_t size = tile_bytes(scheme, group);
        tiles.resize(size * matrix.row_groups * groups);
        for (size_t at = 0; at < tiles.size(); at += size) {
            const size_t codes = (scheme == Scheme::int8 ? 256 : 128) * (group / 32);
            if (scheme == Scheme::float32) {
                for (size_t i = 0; i < 256; i++) store(at + 4 * i, uniform(-1, 1));
                continue;
            }
            for (size_t i = 0; i < codes; i++) tiles[at + i] = static_cast<uint8_t>(rng());
            for (size_t i = codes; i < size; i += 2) {
                const uint16_t half = float_to_half(uniform(-0.1f, 0.1f));
                std::memcpy(&tiles[at + i], &half, 2);
            }
        }
        matrix.tiles = tiles.data();
    }
    void store(size_t at, float value) { std::memcpy(&tiles[at], &value, sizeof value); }

    // By the formulas of docs/format.md.
    double weight(uint32_t row, uint32_t col) const {
        const uint32_t r = row % 8, k = col % 32, parts = matrix.group / 32, part = col % matrix.group / 32;
        const uint8_t *tile =
            &tiles[(size_t{row / 8} * matrix.groups + col / matrix.group) * tile_bytes(matrix.scheme, matrix.group)];
        const auto half = [&](size_t offset) {
            uint16_t bits;
            std::memcpy(&bits, tile + offset + 2 * r, 2);
            return double{half_to_float(bits)};
        };
        if (matrix.scheme == Scheme::float32) {
            float value;
            std::memcpy(&value, tile + 4 * (8 * k + r), 4);
            return value;
        }
        if (matrix.scheme == Scheme::int8)
            return static_cast<int8_t>(tile[256 * part + 32 * (k / 4) + 4 * r + k % 4]) * half(256 * parts);
        const uint8_t byte = tile[128 * part + 32 * (k % 16 / 4) + 4 * r + k % 4];
        const int code = k < 16 ? byte & 15 : byte >> 4;
        return matrix.scheme == Scheme::int4 ? code * half(128 * parts) + half(128 * parts + 16)
                                             : (code - 8) * half(128 * parts);
    }
};

void test_multiply(const Kernels &kernels, const Kernels &truth, Scheme scheme, uint32_t group) {
    for (uint32_t rows = 1; rows <= 25; rows += rows < 10 ? 1 : 5) {
        for (size_t tokens = 1; tokens <= 9; tokens++) {
            const uint32_t groups = 1 + below(3);
            const Weights w(scheme, rows, groups, group);
            Rows a(tokens, w.matrix.cols);
            for (float &x : a.floats) x = uniform(-2, 2);
            truth.quantize(a.view, 0, tokens);
            const bool accumulate = tokens % 2 == 0;
            std::vector<float> y = random_floats(tokens * rows), expected = y;
            const std::vector<float> before = y;
            kernels.multiply(w.matrix, 0, w.matrix.row_groups, a.view, tokens, y.data(), rows, accumulate, nullptr);
            truth.multiply(w.matrix, 0, w.matrix.row_groups, a.view, tokens, expected.data(), rows, accumulate,
                           nullptr);
            CHECK(same_bits(y, expected));
            double worst = 0;
            for (size_t t = 0; t < tokens; t++)
                for (uint32_t r = 0; r < rows; r++) {
                    double sum = accumulate ? before[t * rows + r] : 0;
                    for (uint32_t c = 0; c < w.matrix.cols; c++) {
                        const size_t at = t * w.matrix.cols + c;
                        const double x = scheme == Scheme::float32 ? a.floats[at] : a.value(at);
                        sum += w.weight(r, c) * x;
                    }
                    worst = std::max(worst, std::fabs(sum - y[t * rows + r]));
                }
            CHECK(worst < 1e-3);
            // Any split over threads, and any split over tokens, gives the same bits.
            std::vector<float> parts = before;
            const uint32_t cut = w.matrix.row_groups / 2;
            kernels.multiply(w.matrix, 0, cut, a.view, tokens, parts.data(), rows, accumulate, nullptr);
            kernels.multiply(w.matrix, cut, w.matrix.row_groups, a.view, tokens, parts.data(), rows, accumulate,
                             nullptr);
            CHECK(same_bits(parts, y));
            for (size_t t = 0; t < tokens; t++) {
                Activations one = a.view;
                one.floats += t * one.stride;
                one.high += t * one.stride;
                one.low += t * one.stride;
                one.scales += t * one.stride / kGroup;
                one.offsets += t * one.stride / kGroup;
                one.eights += t * one.stride / kGroup;
                std::vector<float> row(before.begin() + static_cast<std::ptrdiff_t>(t * rows),
                                       before.begin() + static_cast<std::ptrdiff_t>((t + 1) * rows));
                kernels.multiply(w.matrix, 0, w.matrix.row_groups, one, 1, row.data(), rows, accumulate, nullptr);
                CHECK(std::memcmp(row.data(), &y[t * rows], rows * sizeof(float)) == 0);
            }
        }
    }
}

void test_dequantize_row() {
    for (const Scheme scheme : {Scheme::float32, Scheme::int4, Scheme::int4_symmetric, Scheme::int8})
        for (const uint32_t group : {32u, 64u, 128u}) {
            if (group > 32 && scheme == Scheme::float32) continue;
            const Weights w(scheme, 11, 3, group);
            std::vector<float> row(w.matrix.cols);
            for (uint32_t i = 0; i < 11; i++) {
                dequantize_row(w.matrix, i, row.data());
                double worst = 0;
                for (uint32_t c = 0; c < w.matrix.cols; c++)
                    worst = std::max(worst, std::fabs(row[c] - w.weight(i, c)));
                CHECK(worst < 1e-5);
            }
        }
}

// The extreme codes: the largest sums that the 16-bit steps of a fast kernel have to hold.
void test_extreme_codes(const Kernels &kernels, const Kernels &truth) {
    for (const Scheme scheme : {Scheme::int4, Scheme::int4_symmetric, Scheme::int8})
        for (const int high : {-127, 127})
            for (const int low : {-127, 127})
                for (const int code : {0, 15, 240, 255, 127, 128, 129}) {
                    Weights w(scheme, 8, 2);
                    for (size_t at = 0; at < w.tiles.size(); at += tile_bytes(scheme))
                        std::memset(&w.tiles[at], code, scheme == Scheme::int8 ? 256 : 128);
                    Rows a(1, 64);
                    std::fill(a.high.begin(), a.high.end(), static_cast<int8_t>(high));
                    std::fill(a.low.begin(), a.low.end(), static_cast<int8_t>(low));
                    std::fill(a.scales.begin(), a.scales.end(), 0.5f);
                    std::fill(a.offsets.begin(), a.offsets.end(), 0.5f * static_cast<float>(32 * a.code(0)));
                    std::fill(a.eights.begin(), a.eights.end(), -8 * 32 * a.code(0));
                    std::vector<float> y(8), expected(8);
                    kernels.multiply(w.matrix, 0, 1, a.view, 1, y.data(), 8, false, nullptr);
                    truth.multiply(w.matrix, 0, 1, a.view, 1, expected.data(), 8, false, nullptr);
                    CHECK(same_bits(y, expected));
                    double sum = 0, size = 0;
                    for (uint32_t c = 0; c < 64; c++) {
                        sum += w.weight(0, c) * a.value(c);
                        size += std::fabs(w.weight(0, c) * a.value(c));
                    }
                    CHECK(std::fabs(sum - y[0]) <= 1e-5 * (1 + size));
                }
}

// -- attention ------------------------------------------------------------------------------------

constexpr ml_kv_type kKvTypes[] = {ML_KV_F32, ML_KV_F16, ML_KV_I8};

// What a cached vector holds, by the formulas of docs/format.md.
double cached(ml_kv_type type, const uint8_t *vector, uint32_t head_dim, uint32_t i) {
    uint16_t half;
    float value;
    if (type == ML_KV_F32) {
        std::memcpy(&value, vector + 4 * i, 4);
        return value;
    }
    std::memcpy(&half, type == ML_KV_F16 ? vector + 2 * i : vector + head_dim + 2 * (i / 32), 2);
    return type == ML_KV_F16 ? half_to_float(half) : half_to_float(half) * static_cast<int8_t>(vector[i]);
}

struct Cache {
    ml_kv_type type;
    uint32_t head_dim;
    size_t vector_bytes;
    std::vector<uint8_t> bytes;
    Cache(const Kernels &kernels, ml_kv_type type, uint32_t length, uint32_t head_dim, float size)
        : type(type), head_dim(head_dim), vector_bytes(kv_vector_bytes(type, head_dim)), bytes(length * vector_bytes) {
        for (uint32_t t = 0; t < length; t++)
            kernels.kv(type).store(random_floats(head_dim, size).data(), head_dim, &bytes[t * vector_bytes]);
    }
    double at(size_t t, uint32_t i) const { return cached(type, &bytes[t * vector_bytes], head_dim, i); }
};

// One query head over the whole length, in double precision, in the textbook's order.
std::vector<double> naive_attention(const float *query, const Cache &keys, const Cache &values, uint32_t length,
                                    float scale) {
    const uint32_t dim = keys.head_dim;
    std::vector<double> weight(length), out(dim);
    double largest = -INFINITY, total = 0;
    for (uint32_t t = 0; t < length; t++) {
        for (uint32_t i = 0; i < dim; i++) weight[t] += query[i] * keys.at(t, i);
        weight[t] *= scale;
        largest = std::max(largest, weight[t]);
    }
    for (double &x : weight) total += x = std::exp(x - largest);
    for (uint32_t t = 0; t < length; t++)
        for (uint32_t i = 0; i < dim; i++) out[i] += weight[t] / total * values.at(t, i);
    return out;
}

// `size` of keys: at 2 all weights count, at 60 the largest score moves from block to block and most weights vanish.
void check_attention(const Kernels &kernels, const Kernels &truth, ml_kv_type type, uint32_t dim, uint32_t length,
                     uint32_t heads, float size) {
    const std::vector<float> query = random_floats(size_t{heads} * dim);
    const Cache keys(kernels, type, length, dim, size), values(kernels, type, length, dim, 2);
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    std::vector<float> out(query.size(), NAN), expected(query.size()), alone(query.size());
    const auto run = [&](const Kernels &set, uint32_t first, uint32_t count, std::vector<float> &to) {
        set.kv(type).attend({&query[size_t{first} * dim], keys.bytes.data(), values.bytes.data(), length, dim, count,
                             scale, &to[size_t{first} * dim]});
    };
    run(kernels, 0, heads, out);
    run(truth, 0, heads, expected);
    CHECK(same_bits(out, expected));
    for (uint32_t h = 0; h < heads; h++) run(kernels, h, 1, alone); // who shares the pass changes nothing
    CHECK(same_bits(out, alone));
    double worst = 0;
    for (uint32_t h = 0; h < heads; h++) {
        const std::vector<double> naive = naive_attention(&query[size_t{h} * dim], keys, values, length, scale);
        for (uint32_t i = 0; i < dim; i++) worst = std::max(worst, std::fabs(naive[i] - out[size_t{h} * dim + i]));
    }
    CHECK(worst < (size > 10 ? 5e-4 : 1e-5)); // scores of some hundreds have float32 steps of 3e-5
}

void test_attention(const Kernels &kernels, const Kernels &truth) {
    for (const ml_kv_type type : kKvTypes) {
        for (const uint32_t dim : {8u, 10u, 16u, 20u, 32u, 52u, 64u, 80u})
            for (uint32_t length = 1; length <= 100; length += length < 40 ? 1 : 7)
                check_attention(kernels, truth, type, dim, length, 1 + length % 3, length % 2 ? 2.0f : 60.0f);
        for (uint32_t heads = 1; heads <= 19; heads++) check_attention(kernels, truth, type, 64, 70, heads, 2);
        check_attention(kernels, truth, type, 64, 1000, 4, 2);
    }
}

void test_kv_vector_bytes() {
    CHECK(ml_kv_vector_bytes(ML_KV_F32, 64) == 256 && ml_kv_vector_bytes(ML_KV_F16, 64) == 128);
    CHECK(ml_kv_vector_bytes(ML_KV_I8, 64) == 68 && ml_kv_vector_bytes(ML_KV_I8, 66) == 72);
    CHECK(ml_kv_vector_bytes(ML_KV_I8, 0) == 0 && ml_kv_vector_bytes(ML_KV_I8, 4097) == 0);
    CHECK(ml_kv_vector_bytes(4, 64) == 0);
}

void test_byte_cache(const Kernels &kernels, const Kernels &truth) {
    const auto stored = [&](const Kernels &set, const std::vector<float> &x) {
        std::vector<uint8_t> bytes(kv_vector_bytes(ML_KV_I8, x.size()));
        set.kv_i8.store(x.data(), x.size(), bytes.data());
        return bytes;
    };
    for (uint32_t dim = 2; dim <= 100; dim += 2)
        for (const float size : {1.0f, 1e-3f, 1e-6f, 0.0f}) {
            const std::vector<float> x = random_floats(dim, size);
            const std::vector<uint8_t> bytes = stored(kernels, x);
            CHECK(bytes == stored(truth, x));
            double worst = 0;
            for (uint32_t i = 0; i < dim; i++)
                worst = std::max(worst, std::fabs(cached(ML_KV_I8, bytes.data(), dim, i) - x[i]));
            CHECK(worst <= double{size} / 127 * 0.505 + 127 * std::ldexp(1, -25)); // half a step, of a rounded scale
        }
    std::vector<float> odd(40, 1.0f);
    odd[1] = NAN, odd[2] = INFINITY, odd[3] = -INFINITY, odd[34] = 3e38f, odd[35] = -1e-42f;
    const std::vector<uint8_t> bytes = stored(kernels, odd);
    for (uint32_t i = 0; i < 40; i++) CHECK(std::isfinite(cached(ML_KV_I8, bytes.data(), 40, i)));
    CHECK(static_cast<int8_t>(bytes[2]) == 127 && static_cast<int8_t>(bytes[3]) == -127);
    CHECK(static_cast<int8_t>(bytes[34]) == 127 && bytes[35] == 0);
}

// Loads leave nothing behind; the sanitizer sees those beyond the end.
void test_read(const Kernels &kernels) {
    for (size_t bytes = 0; bytes <= 4 * kReadStep; bytes += kReadStep) {
        const std::unique_ptr<uint8_t[]> exact(new uint8_t[bytes]());
        kernels.read(exact.get(), bytes);
    }
}

// -- memory ---------------------------------------------------------------------------------------

void test_chain() {
    for (const uint64_t lines : {1, 2, 3, 64, 1000, 65536}) {
        const std::unique_ptr<uint64_t[]> region(new uint64_t[lines * 8]);
        uint8_t *const begin = reinterpret_cast<uint8_t *>(region.get());
        link_lines(begin, lines);
        uint64_t steps = 0, neighbours = 0;
        const uint8_t *at = begin;
        do {
            const uint8_t *next;
            std::memcpy(&next, at, sizeof next);
            CHECK(next >= begin && next < begin + lines * 64 && (next - begin) % 64 == 0);
            neighbours += next == at + 64;
            at = next;
        } while (++steps < lines && at != begin);
        CHECK(steps == lines && at == begin); // every line, once
        CHECK(lines < 1000 || neighbours < lines / 100);
    }
}

void test_memory() {
    constexpr uint32_t kMost = 3;
    constexpr uint64_t kBytes = 1 << 18;
    double samples[kMost];
    uint32_t count = 0;
    ml_memory *memory = nullptr;
    for (const uint64_t bytes : {uint64_t{0}, uint64_t{4095}, (uint64_t{1} << 36) + 1, UINT64_MAX})
        CHECK(ml_memory_create(bytes, 1, nullptr, 0, 1, &memory) == ML_FAILED && memory == nullptr);
    for (const uint32_t threads : {0u, 257u, UINT32_MAX})
        CHECK(ml_memory_create(kBytes, threads, nullptr, 0, 1, &memory) == ML_FAILED);
    const uint32_t far = 4000000000u;
    CHECK(ml_memory_create(kBytes, 1, &far, 1, 1, &memory) == ML_FAILED);
    for (const uint32_t threads : {1u, 2u, 3u}) {
        CHECK(ml_memory_create(kBytes, threads, nullptr, 0, threads % 2, &memory) == ML_OK);
        const auto read = [&](uint64_t bytes, uint32_t state, double seconds) {
            return ml_memory_read(memory, bytes, state, seconds, samples, kMost, &count);
        };
        const auto chase = [&](uint64_t bytes, uint32_t state, double seconds) {
            return ml_memory_chase(memory, bytes, state, seconds, samples, kMost, &count);
        };
        const auto measured = [&] {
            return count >= 1 && count <= kMost && std::all_of(samples, samples + count, [](double sample) {
                       return std::isfinite(sample) && sample > 0;
                   });
        };
        for (const uint32_t state : {ML_WARM, ML_COLD_FLUSHED, ML_COLD_READ}) {
            const bool possible = state != ML_COLD_FLUSHED || *ml_flush_instruction() != 0;
            for (const uint64_t bytes : {uint64_t{4096}, uint64_t{5000}, kBytes}) {
                CHECK(read(bytes, state, 0.002) == (possible ? ML_OK : ML_FAILED) && (measured() || !possible));
                CHECK(chase(bytes, state, 0.002) == (possible ? ML_OK : ML_FAILED) && (measured() || !possible));
            }
        }
        for (const uint64_t bytes : {uint64_t{0}, uint64_t{4095}, kBytes + 1, UINT64_MAX})
            CHECK(read(bytes, ML_WARM, 0.01) == ML_FAILED && chase(bytes, ML_WARM, 0.01) == ML_FAILED && count == 0);
        for (const double seconds : {0.0, -1.0, 601.0, double{NAN}, double{INFINITY}})
            CHECK(read(kBytes, ML_WARM, seconds) == ML_FAILED && chase(kBytes, ML_WARM, seconds) == ML_FAILED);
        CHECK(read(kBytes, 3, 0.01) == ML_FAILED && chase(kBytes, UINT32_MAX, 0.01) == ML_FAILED);
        double steps[3] = {};
        CHECK(ml_memory_arithmetic(memory, 0.001, steps, threads) == ML_OK);
        CHECK(std::all_of(steps, steps + threads, [](double step) { return std::isfinite(step) && step > 0; }));
        CHECK(ml_memory_arithmetic(memory, 600, steps, threads + 1) == ML_FAILED); // at once
        CHECK(ml_memory_arithmetic(memory, 600, nullptr, threads) == ML_FAILED);
        for (const double seconds : {0.0, -1.0, 601.0, double{NAN}, double{INFINITY}})
            CHECK(ml_memory_arithmetic(memory, seconds, steps, threads) == ML_FAILED);
        ml_memory_destroy(memory);
    }
    CHECK(ml_memory_create(uint64_t{8} << 20, 4, nullptr, 0, 1, &memory) == ML_OK);
    CHECK(ml_memory_chase(memory, uint64_t{8} << 20, ML_WARM, 0.01, samples, kMost, &count) == ML_FAILED);
    CHECK(std::strstr(ml_last_error(), "fewer threads") != nullptr);
    ml_memory_destroy(memory);
    CHECK(ml_memory_create(4096, 64, nullptr, 0, 1, &memory) == ML_OK);
    CHECK(ml_memory_read(memory, 4096, ML_WARM, 0.01, samples, kMost, &count) == ML_FAILED);
    CHECK(std::strstr(ml_last_error(), "64 threads") != nullptr);
    ml_memory_destroy(memory);
}

// -- threads --------------------------------------------------------------------------------------

void test_threads() {
    for (uint32_t threads = 1; threads <= 4; threads++) {
        ThreadPool pool(threads);
        CHECK(pool.size() == threads);
        std::vector<uint32_t> counts(threads), seen(threads);
        uint32_t shared = 0; // written by one thread per phase, read by all: a race unless the barrier holds
        int wrong = 0;
        std::atomic<int> wrong_inside{0};
        for (uint32_t region = 0; region < 300; region++) {
            const auto work = [&](uint32_t thread) {
                counts[thread]++;
                for (uint32_t phase = 0; phase < 5; phase++) {
                    if (phase % threads == thread) shared = region * 5 + phase;
                    pool.barrier(thread);
                    seen[thread] = shared;
                    if (seen[thread] != region * 5 + phase) wrong_inside++;
                    pool.barrier(thread);
                }
            };
            pool.run(work, threads);
            for (const uint32_t count : counts) wrong += count != region + 1;
        }
        CHECK(wrong == 0);
        CHECK(wrong_inside == 0);
    }
    for (int round = 0; round < 20; round++) { // made and dropped without work, and after a pause
        ThreadPool pool(1 + static_cast<uint32_t>(round) % 4);
        if (round % 2) pool.run([](uint32_t) {}, pool.size());
        if (round == 7) std::this_thread::sleep_for(std::chrono::milliseconds(20));
        if (round % 3 == 0) pool.run([&](uint32_t thread) { pool.barrier(thread); }, pool.size());
    }
}

// Regions of fewer threads than the pool has, in any order, with helpers that do not meet the others.
void test_some_of_the_threads() {
    ThreadPool pool(4);
    std::atomic<uint32_t> ran{0}, helped{0};
    uint32_t expected_ran = 0, expected_helped = 0;
    for (int round = 0; round < 300; round++) {
        const uint32_t threads = 1 + below(4), helpers = below(5 - threads);
        pool.run(
            [&](uint32_t thread) {
                if (thread >= threads) {
                    helped++;
                    return;
                }
                ran++;
                for (int i = 0; i < 3; i++) pool.barrier(thread);
            },
            threads, helpers);
        CHECK(ran == (expected_ran += threads));
        CHECK(helped == (expected_helped += helpers));
    }
}

// A thread that keeps the others waiting makes the pool narrower for a while, and no longer.
void test_narrow_where_threads_stall() {
    using std::chrono::milliseconds;
    ThreadPool pool(3);
    CHECK(pool.ready() == 3);
    const auto run_for = [&](milliseconds stall) {
        const uint32_t threads = pool.ready();
        pool.run(
            [&](uint32_t thread) {
                if (thread == threads - 1) std::this_thread::sleep_for(stall);
                pool.barrier(thread);
            },
            threads);
    };
    for (int i = 0; i < 8 && pool.ready() == 3; i++) run_for(milliseconds(10));
    CHECK(pool.ready() == 2);
    std::this_thread::sleep_for(milliseconds(100));
    CHECK(pool.ready() == 3);
    ThreadPool one(1);
    CHECK(one.ready() == 1);
}

// In a child process, under a limit of memory that some threads' stacks fit and all of them do not. Not under the
// sanitizers, which need the address space for themselves; where the limit is not kept (QEMU) all threads start.
void test_threads_that_cannot_be_started() {
    if (kSanitized) return;
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        alarm(20); // a hang ends the child
        std::ifstream sizes("/proc/self/statm");
        rlim_t pages = 0;
        sizes >> pages;
        const rlim_t bytes = pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) + (rlim_t{64} << 20);
        const rlimit limit{bytes, bytes};
        bool as_said = setrlimit(RLIMIT_AS, &limit) == 0;
        try {
            ThreadPool pool(256);
            pool.run([](uint32_t) {}, pool.size());
        } catch (const Error &error) {
            as_said = as_said && std::string(error.what()).find("256 threads cannot be started") == 0;
        }
        _exit(as_said ? 0 : 1);
    }
    int status = 1;
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    CHECK(child > 0 && status == 0);
}

void test_scratch_after_a_failed_growth() {
    if (kSanitized) return; // they end the process when an allocation is too large
    Scratch<float> scratch;
    CHECK(scratch.at_least(16) != nullptr);
    bool failed_to_grow = false;
    try {
        scratch.at_least(SIZE_MAX / 8);
    } catch (const std::bad_alloc &) {
        failed_to_grow = true;
    }
    CHECK(failed_to_grow);
    float *again = scratch.at_least(8);
    CHECK(again != nullptr);
    if (again) std::fill(again, again + 8, 1.0f);
}

// -- JSON -----------------------------------------------------------------------------------------

void test_json() {
    for (const char *good :
         {"null", " true ", "false", "0", "-1.5e3", "[]", "[1, [2], {}]", "{}", "\"\"", "{\"a\": {\"b\": [1]}}",
          "\"\\u00e9\\n\\\"\"", "\"\\ud83d\\ude42\"", "\t\r\n1\n", "1e308", "\"\xc3\xa9\""}) {
        bool fine = true;
        try {
            Json::parse(good);
        } catch (const Error &) {
            fine = false;
        }
        CHECK(fine);
    }
    for (const char *bad : {"",
                            " ",
                            "{",
                            "}",
                            "[",
                            "]",
                            "[1,]",
                            "[,1]",
                            "{\"a\"}",
                            "{\"a\":}",
                            "{\"a\":1,}",
                            "{a:1}",
                            "{\"a\":1 \"b\":2}",
                            "{\"a\":1,\"a\":2}",
                            "tru",
                            "nul",
                            "True",
                            "\"",
                            "\"\\",
                            "\"\\x\"",
                            "\"\\u12\"",
                            "\"\\u12g4\"",
                            "\"\\ud83d\"",
                            "\"\\ud83dx\"",
                            "\"\\ud83d\\u0041\"",
                            "\"\\ude42\"",
                            "\"\\ude42\\ud83d\"",
                            "\"\\udfff\"",
                            "\"\n\"",
                            "1 2",
                            "--1",
                            "1e",
                            "1e999",
                            "-1e999",
                            "1e+",
                            "1e5.2",
                            "1.e5",
                            ".5",
                            "01",
                            "-01",
                            "1-2",
                            "1e5e5",
                            "1,5",
                            "+1",
                            "nan",
                            "inf",
                            "1..2",
                            "0x10",
                            "-",
                            "'a'"})
        CHECK(refuses([&] { Json::parse(bad); }, "JSON metadata"));
    CHECK(refuses([] { Json::parse(std::string(100000, '[')); }, "nested too deep"));
    CHECK(refuses([] { Json::parse(std::string(33, '[') + std::string(33, ']')); }, "nested too deep"));
    CHECK(Json::parse(std::string(32, '[') + std::string(32, ']')).kind() == Json::Kind::array);
    CHECK(refuses([] { Json::parse({"\0", 1}); }));
    std::string many = "[0";
    for (int i = 0; i < 999998; i++) many += ",0";
    CHECK(Json::parse(many + "]").array("many").size() == 999999); // the list itself is the millionth
    CHECK(refuses([&] { Json::parse(many + ",0]"); }, "more than a million values"));
    const std::pair<const char *, double> numbers[] = {{"0", 0},
                                                       {"-0", 0},
                                                       {"12", 12},
                                                       {"-1.5e3", -1500},
                                                       {"1E2", 100},
                                                       {"1e+2", 100},
                                                       {"25e-2", 0.25},
                                                       {"0.1", 0.1},
                                                       {"1e308", 1e308},
                                                       {"2.2250738585072014e-308", 2.2250738585072014e-308},
                                                       {"1e-05", 1e-05},
                                                       {"16777217", 16777217},
                                                       {"9007199254740993", 9007199254740992.0}};
    for (const auto &[text, expected] : numbers) CHECK(Json::parse(text).number("number") == expected);
    const Json value =
        Json::parse("{\"n\": 3, \"s\": \"\\ud83d\\ude42\\u00e9\", \"b\": true, \"f\": 1.5, \"neg\": -1, \"z\": null}");
    CHECK(value.at("n").whole("n", 0, 3) == 3);
    CHECK(value.at("s").string("s") == "\xf0\x9f\x99\x82\xc3\xa9");
    CHECK(value.at("b").boolean("b"));
    CHECK(value.has("z") && !value.has("y"));
    CHECK(refuses([&] { value.at("n").whole("n", 4, 9); }, "n is 3"));
    CHECK(refuses([&] { value.at("f").whole("f", 0, 9); }));
    CHECK(refuses([&] { value.at("neg").whole("neg", 0, 9); }));
    CHECK(refuses([&] { value.at("n").string("n"); }, "n is not a string"));
    CHECK(refuses([&] { value.at("s").number("s"); }, "s is not a number"));
    CHECK(refuses([&] { value.at("n").array("n"); }, "n is not a list"));
    CHECK(refuses([&] { value.at("n").at("x"); }, "not an object"));
    CHECK(refuses([&] { value.at("missing"); }, "missing is missing"));
    const std::string text = "{\"a\":[1,2.5,\"x\\u0041\",{\"b\":null}],\"c\":true}";
    for (int round = 0; round < 5000; round++) {
        std::string mutated = text;
        for (uint32_t i = 0; i <= below(3); i++)
            mutated[below(static_cast<uint32_t>(mutated.size()))] = static_cast<char>(rng());
        mutated.resize(mutated.size() - below(4));
        const std::vector<char> exact(mutated.begin(), mutated.end());
        refuses([&] { Json::parse({exact.data(), exact.size()}); });
    }
}

// -- records --------------------------------------------------------------------------------------

template <typename T> void put(std::vector<uint8_t> &bytes, size_t at, T value) {
    std::memcpy(&bytes[at], &value, sizeof value);
}

constexpr uint32_t kHidden = 32, kInner = 64, kHeads = 2, kKvHeads = 1, kHeadDim = 16, kVocab = 11;

struct Tensor {
    uint32_t role;
    Scheme scheme;
    uint32_t rows, cols, group = kGroup;
};

std::vector<uint8_t> make_record(uint32_t kind, const std::vector<Tensor> &tensors) {
    std::vector<uint8_t> bytes((64 + 32 * tensors.size() + 63) / 64 * 64);
    put(bytes, 0, 0x4B4C424Du);
    put(bytes, 4, 1u);
    put(bytes, 8, kind);
    put(bytes, 12, static_cast<uint32_t>(tensors.size()));
    if (kind == 1) {
        const uint32_t dims[] = {kHidden, kInner, kHeads, kKvHeads, kHeadDim};
        std::memcpy(&bytes[24], dims, sizeof dims);
        put(bytes, 48, 1e-5f);
        put(bytes, 52, 10000.0f);
    }
    for (size_t i = 0; i < tensors.size(); i++) {
        const Tensor &t = tensors[i];
        std::vector<uint8_t> data;
        if (t.scheme == Scheme::vector) {
            data.resize(size_t{t.cols} * 4);
            for (uint32_t c = 0; c < t.cols; c++) put(data, size_t{4} * c, uniform(0.5f, 1.5f));
        } else {
            data = Weights(t.scheme, t.rows, t.cols / t.group, t.group).tiles;
        }
        const size_t entry = 64 + 32 * i, offset = bytes.size();
        bytes.insert(bytes.end(), data.begin(), data.end());
        bytes.resize((bytes.size() + 63) / 64 * 64);
        put(bytes, entry, t.role);
        put(bytes, entry + 4, static_cast<uint32_t>(t.scheme) | (t.group == 32 ? 0 : t.group << 16));
        if (t.group != 32) put(bytes, 4, 2u);
        put(bytes, entry + 8, t.rows);
        put(bytes, entry + 12, t.cols);
        put(bytes, entry + 16, static_cast<uint64_t>(offset));
        put(bytes, entry + 24, static_cast<uint64_t>(data.size()));
    }
    put(bytes, 16, static_cast<uint64_t>(bytes.size()));
    return bytes;
}

// `inner_group` is the group of the only matrix wide enough for another than 32.
std::vector<uint8_t> make_block(Scheme scheme, uint32_t inner_group = kGroup) {
    const uint32_t query = kHeads * kHeadDim, kv = kKvHeads * kHeadDim;
    return make_record(1, {{0, Scheme::vector, 1, kHidden},
                           {1, scheme, query, kHidden},
                           {2, scheme, kv, kHidden},
                           {3, scheme, kv, kHidden},
                           {4, scheme, kHidden, query},
                           {5, Scheme::vector, 1, kHidden},
                           {6, scheme, kInner, kHidden},
                           {7, scheme, kInner, kHidden},
                           {8, scheme, kHidden, kInner, inner_group}});
}

std::vector<uint8_t> make_matrix(Scheme scheme) { return make_record(2, {{16, scheme, kVocab, kHidden}}); }

constexpr Scheme kSchemes[] = {Scheme::float32, Scheme::int4_symmetric, Scheme::int4, Scheme::int8};

// Runs a record that the parser accepted: nothing it claims may lead outside its bytes.
void run_block(ml_context *context, ml_record record) {
    float hidden[2 * kHidden];
    for (float &x : hidden) x = uniform(-1, 1);
    std::vector<uint8_t> keys(2 * kKvHeads * 4 * kHeadDim * 2), values(keys.size());
    ml_loop_args args{};
    args.blocks = &record;
    args.num_blocks = 1;
    args.loops = 2;
    args.damping = 1;
    args.hidden_in = args.hidden_out = hidden;
    args.hidden_size = kHidden;
    args.tokens = 2;
    const ml_sequence sequence{keys.data(), values.data(), keys.size(), 0};
    args.sequences = &sequence;
    args.num_sequences = 1;
    args.kv_type = ML_KV_F16;
    args.num_slots = 2;
    args.capacity = 4;
    ml_loop(context, &args); // a refusal is as good as an answer
}

void test_records() {
    ml_context *context = nullptr;
    CHECK(ml_context_create(1, &context) == ML_OK);
    for (const Scheme scheme : kSchemes) {
        const std::vector<uint8_t> block = make_block(scheme), matrix = make_matrix(scheme);
        CHECK(ml_check_record({block.data(), block.size()}, 1) == ML_OK);
        CHECK(ml_check_record({matrix.data(), matrix.size()}, 2) == ML_OK);
        CHECK(ml_check_record({matrix.data(), matrix.size()}, 1) == ML_FAILED);
        CHECK(ml_check_record({block.data(), block.size()}, 3) == ML_FAILED);
        CHECK(ml_check_record({nullptr, 64}, 1) == ML_FAILED);
        CHECK(ml_check_record({block.data() + 1, block.size() - 1}, 1) == ML_FAILED);
        const Block parsed = parse_block({block.data(), block.size()});
        CHECK(parsed.hidden == kHidden && parsed.heads == kHeads && parsed.query.scheme == scheme &&
              !parsed.interleaved);
        for (size_t size = 0; size < block.size(); size += size < 400 ? 4 : 97) { // cut short, in exactly sized memory
            const std::vector<uint8_t> cut(block.begin(), block.begin() + static_cast<std::ptrdiff_t>(size));
            CHECK(refuses([&] { parse_block({cut.data(), cut.size()}); }));
        }
        const size_t table = 64 + 32 * 9;
        for (int round = 0; round < 1500; round++) {
            std::vector<uint8_t> mutated = block;
            for (uint32_t i = 0; i <= below(2); i++) {
                const size_t at = below(static_cast<uint32_t>(round % 4 ? table : mutated.size()));
                if (round % 3 == 0 && at + 4 <= table) { // whole fields with awkward values
                    const uint32_t awkward[] = {0, 1, 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 32, 64, 1u << 24};
                    put(mutated, at / 4 * 4, awkward[below(8)]);
                } else {
                    mutated[at] ^= static_cast<uint8_t>(1 + below(255));
                }
            }
            const ml_record record{mutated.data(), mutated.size()};
            if (ml_check_record(record, 1) == ML_OK) run_block(context, record);
        }
        for (int round = 0; round < 700; round++) {
            std::vector<uint8_t> mutated = matrix;
            mutated[below(round % 2 ? 96 : static_cast<uint32_t>(mutated.size()))] ^=
                static_cast<uint8_t>(1 + below(255));
            const ml_record record{mutated.data(), mutated.size()};
            const int64_t token = static_cast<int64_t>(below(kVocab));
            float hidden[kHidden], logits[kVocab];
            if (ml_embed(context, record, &token, 1, hidden, kHidden) == ML_OK)
                ml_head(context, record, nullptr, 0, hidden, 1, kHidden, logits, kVocab);
        }
        passed++; // reaching this line is the point
    }
    ml_context_destroy(context);
}

void test_record_groups() {
    const auto refused = [](std::vector<uint8_t> bytes, const char *words) {
        return refuses([&] { parse_matrix({bytes.data(), bytes.size()}); }, words);
    };
    for (const uint32_t group : {64u, 128u}) {
        const std::vector<uint8_t> good = make_record(2, {{16, Scheme::int4, kVocab, 256, group}});
        const Matrix matrix = parse_matrix({good.data(), good.size()});
        CHECK(matrix.group == group && matrix.groups == 256 / group && matrix.cols == 256);
        std::vector<uint8_t> bad = good;
        put(bad, 4, 1u);
        CHECK(refused(bad, "of record version 1 does not have"));
        put(bad, 4, 3u);
        CHECK(refused(bad, "a record has version 3"));
        put(bad, 4, 2u);
        for (const uint32_t wrong : {1u, 32u, 96u, 256u, 65535u}) {
            put(bad, 64 + 4, 3u | wrong << 16);
            CHECK(refused(bad, "has groups of"));
        }
        put(bad, 64 + 4, 3u | (192 - group) << 16);
        CHECK(refused(bad, "bytes where"));
        put(bad, 64 + 4, 1u | group << 16);
        CHECK(refused(bad, "has groups of"));
        put(bad, 64 + 4, 3u | group << 16);
        CHECK(!refused(bad, ""));
        put(bad, 64 + 12, 256 - 32u);
        CHECK(refused(bad, "not a multiple of the group"));
    }
    std::vector<uint8_t> norm = make_block(Scheme::int4);
    put(norm, 4, 2u);
    CHECK(!refuses([&] { parse_block({norm.data(), norm.size()}); }));
    put(norm, 64 + 4, 64u << 16);
    CHECK(refuses([&] { parse_block({norm.data(), norm.size()}); }, "the norm in tensor 0"));
}

// -- the C interface ------------------------------------------------------------------------------

void test_loop_arguments() {
    ml_context *context = nullptr;
    CHECK(ml_context_create(0, &context) == ML_FAILED);
    CHECK(ml_context_create(257, &context) == ML_FAILED);
    CHECK(ml_context_create(2, &context) == ML_OK);
    CHECK(ml_context_threads(context) == 2);
    const std::vector<uint8_t> bytes = make_block(Scheme::int8);
    const ml_record record{bytes.data(), bytes.size()};
    std::vector<float> hidden = random_floats(kHidden), out(kHidden), norm(kHidden, 1.0f);
    std::vector<float> keys(2 * kKvHeads * 4 * kHeadDim), values(keys.size());
    uint32_t applied = 0;
    ml_sequence sequence{};
    const auto good = [&] {
        ml_loop_args args{};
        args.blocks = &record;
        args.num_blocks = 1;
        args.loops = 2;
        args.damping = 0.5f;
        args.loop_end_norm = norm.data();
        args.loop_end_norm_eps = 1e-5f;
        args.hidden_in = hidden.data();
        args.hidden_out = out.data();
        args.hidden_size = kHidden;
        args.tokens = 1;
        sequence = {keys.data(), values.data(), keys.size() * sizeof(float), 3};
        args.sequences = &sequence;
        args.num_sequences = 1;
        args.kv_type = ML_KV_F32;
        args.num_slots = 2;
        args.capacity = 4;
        args.applied_loops = &applied;
        return args;
    };
    ml_loop_args args = good();
    CHECK(ml_loop(context, &args) == ML_OK);
    CHECK(applied == 2);
    const std::vector<std::function<void(ml_loop_args &)>> wrong = {
        [](ml_loop_args &a) { a.blocks = nullptr; },
        [](ml_loop_args &a) { a.num_blocks = 0; },
        [](ml_loop_args &a) { a.loops = 0; },
        [](ml_loop_args &a) { a.loops = 3; },
        [](ml_loop_args &a) { a.loops = 0xFFFFFFFF; },
        [](ml_loop_args &a) { a.damping = 0; },
        [](ml_loop_args &a) { a.damping = NAN; },
        [](ml_loop_args &a) { a.damping = 1.5f; },
        [](ml_loop_args &a) { a.hidden_in = nullptr; },
        [](ml_loop_args &a) { a.hidden_size = 64; },
        [](ml_loop_args &a) { a.tokens = 0; },
        [](ml_loop_args &a) { a.tokens = 2; },
        [](ml_loop_args &a) { a.sequences = nullptr; },
        [](ml_loop_args &a) { a.num_sequences = 0; },
        [](ml_loop_args &a) { a.num_sequences = 0xFFFFFFFF; },
        [](ml_loop_args &a) { a.filled_loops = 1; },
        [](ml_loop_args &a) { a.filled_loops = 3; },
        [](ml_loop_args &a) { a.filled_loops = 0xFFFFFFFF; },
        [](ml_loop_args &a) { a.halting = {4u, 1, 0.5, nullptr, 0}; },
        [](ml_loop_args &a) { a.halting = {0xFFFFFFFFu, 1, 0.5, nullptr, 0}; },
        [](ml_loop_args &a) { a.halting = {ML_HALT_COSINE, 0, 0.5, nullptr, 0}; },
        [](ml_loop_args &a) { a.halting = {ML_HALT_COSINE, 1, -0.5, nullptr, 0}; },
        [](ml_loop_args &a) { a.halting = {ML_HALT_COSINE, 1, NAN, nullptr, 0}; },
        [](ml_loop_args &a) { a.halting = {ML_HALT_LATENT_DIFFERENCE, 1, INFINITY, nullptr, 0}; },
        [&](ml_loop_args &a) { a.halting = {ML_HALT_EXIT_GATE, 1, 0, norm.data(), 0}; },
        [&](ml_loop_args &a) { a.halting = {ML_HALT_EXIT_GATE, 1, 1.5, norm.data(), 0}; },
        [](ml_loop_args &a) { a.halting = {ML_HALT_EXIT_GATE, 1, 0.5, nullptr, 0}; },
        [&](ml_loop_args &) { sequence.position = 4; },
        [&](ml_loop_args &) { sequence.position = 0xFFFFFFFF; },
        [&](ml_loop_args &) { sequence.key_cache = nullptr; },
        [&](ml_loop_args &) { sequence.value_cache = nullptr; },
        [&](ml_loop_args &) { sequence.cache_bytes--; },
        [&](ml_loop_args &) { sequence.value_cache = keys.data(); },
        [&](ml_loop_args &) { sequence.value_cache = keys.data() + keys.size() - 1; },
        [](ml_loop_args &a) { a.num_slots = 1; },
        [](ml_loop_args &a) { a.num_slots = 0xFFFFFFFF; },
        [](ml_loop_args &a) { a.capacity = 0xFFFFFFFF; },
        [](ml_loop_args &a) { a.kv_type = 4; },
        [](ml_loop_args &a) { a.kv_type = 0xFFFFFFFF; },
        [](ml_loop_args &a) { a.full_attention = 2; },
    };
    for (const auto &change : wrong) {
        args = good();
        change(args);
        CHECK(ml_loop(context, &args) == ML_FAILED);
        CHECK(std::strlen(ml_last_error()) > 10);
    }
    const std::vector<uint8_t> table = make_matrix(Scheme::int4);
    for (const int64_t token : {int64_t{-1}, int64_t{kVocab}, INT64_MAX, INT64_MIN})
        CHECK(ml_embed(context, {table.data(), table.size()}, &token, 1, out.data(), kHidden) == ML_FAILED);
    CHECK(ml_use_kernels("mmx") == ML_FAILED);
    CHECK(ml_abi_version() == ML_ABI_VERSION);
    double gbps = 0;
    CHECK(ml_read_bandwidth(0, 1 << 20, 0.01, &gbps) == ML_FAILED);
    CHECK(ml_read_bandwidth(2, 1 << 10, 0.01, &gbps) == ML_FAILED);
    CHECK(ml_read_bandwidth(2, 1 << 16, -1, &gbps) == ML_FAILED);
    CHECK(ml_read_bandwidth(2, 1 << 16, 0.01, &gbps) == ML_OK);
    CHECK(gbps > 0);
    ml_context_destroy(context);
}

// A stage of two blocks over two sequences, and everything that a call of it reads and writes.
struct LoopWorld {
    static constexpr uint32_t kBlocks = 2, kLoops = 4, kSequences = 2, kTokens = 5, kCapacity = 8;
    static constexpr size_t kRows = size_t{kSequences} * kTokens;
    std::vector<uint8_t> bytes[kBlocks] = {make_block(Scheme::float32), make_block(Scheme::int8, 64)};
    std::vector<ml_record> blocks{{bytes[0].data(), bytes[0].size()}, {bytes[1].data(), bytes[1].size()}};
    std::vector<float> input = random_floats(kRows * kHidden), norm = random_floats(kHidden),
                       gate = random_floats(kHidden, 0.3f);
    bool normed = false, full_attention = false;
    float damping = 1;
    ml_kv_type kv_type = ML_KV_F32;

    struct Outcome {
        std::vector<float> hidden;
        std::vector<uint8_t> keys, values;
        std::vector<uint32_t> applied;
    };
    Outcome outcome() const {
        const std::vector<uint8_t> cache(kSequences * cache_bytes());
        return {input, cache, cache, std::vector<uint32_t>(kRows)};
    }
    static uint32_t position_of(uint32_t sequence) { return sequence == 0 ? 0 : 2; }
    size_t vector_bytes() const { return kv_vector_bytes(kv_type, kHeadDim); }
    size_t slot_bytes() const { return kKvHeads * kCapacity * vector_bytes(); }
    size_t cache_bytes() const { return kBlocks * kLoops * slot_bytes(); } // of one sequence

    // One call over `count` sequences from `first` on.
    void call(ml_context *context, Outcome &to, const ml_halting &halting, uint32_t loops, uint32_t filled_loops,
              uint32_t first = 0, uint32_t count = kSequences) const {
        std::vector<ml_sequence> sequences;
        for (uint32_t s = first; s < first + count; s++)
            sequences.push_back(
                {&to.keys[s * cache_bytes()], &to.values[s * cache_bytes()], cache_bytes(), position_of(s)});
        ml_loop_args args = arguments(sequences, loops, kTokens, kBlocks * kLoops);
        args.hidden_in = args.hidden_out = &to.hidden[size_t{first} * kTokens * kHidden];
        args.halting = halting;
        args.filled_loops = filled_loops;
        args.applied_loops = &to.applied[first * kTokens];
        CHECK(ml_loop(context, &args) == ML_OK);
    }
    ml_loop_args arguments(const std::vector<ml_sequence> &sequences, uint32_t loops, uint32_t tokens,
                           uint32_t slots) const {
        ml_loop_args args{};
        args.blocks = blocks.data();
        args.num_blocks = kBlocks;
        args.loops = loops;
        args.damping = damping;
        args.loop_end_norm = normed ? norm.data() : nullptr;
        args.loop_end_norm_eps = 1e-5f;
        args.hidden_size = kHidden;
        args.tokens = tokens;
        args.sequences = sequences.data();
        args.num_sequences = static_cast<uint32_t>(sequences.size());
        args.kv_type = kv_type;
        args.full_attention = full_attention;
        args.num_slots = slots;
        args.capacity = kCapacity;
        return args;
    }

    // The slow and obvious way: one token and one loop at a time, each in the slots of its loop, by calls that know
    // nothing of halting; then the keys and values of the last loop are copied by hand.
    void step_by_step(ml_context *context, Outcome &to, const ml_halting &halting, uint32_t loops,
                      uint32_t filled_loops) const {
        const size_t slot = slot_bytes(), cache_size = cache_bytes();
        for (uint32_t row = 0; row < kRows; row++) {
            const uint32_t s = row / kTokens, position = position_of(s) + row % kTokens;
            float *state = &to.hidden[row * kHidden];
            uint8_t *keys = &to.keys[s * cache_size], *values = &to.values[s * cache_size];
            double survival = 1;
            bool halted = false;
            uint32_t &applied = to.applied[row];
            for (applied = 0; applied < loops && !halted; applied++) {
                const std::vector<float> before(state, state + kHidden);
                const size_t first = applied * kBlocks * slot;
                const std::vector<ml_sequence> one{{keys + first, values + first, kBlocks * slot, position}};
                ml_loop_args args = arguments(one, 1, 1, kBlocks);
                args.hidden_in = args.hidden_out = state;
                CHECK(ml_loop(context, &args) == ML_OK);
                double difference = 0, before_square = 0, square = 0, product = 0, logit = halting.gate_bias;
                for (uint32_t i = 0; i < kHidden; i++) {
                    difference += std::pow(double{state[i]} - before[i], 2);
                    before_square += std::pow(double{before[i]}, 2);
                    square += std::pow(double{state[i]}, 2);
                    product += double{state[i]} * before[i];
                    logit += double{gate[i]} * state[i];
                }
                survival *= 1 - 1 / (1 + std::exp(-logit));
                if (halting.rule == ML_HALT_LATENT_DIFFERENCE)
                    halted = std::sqrt(difference / square) < halting.threshold;
                if (halting.rule == ML_HALT_COSINE)
                    halted = 1 - product / std::sqrt(square * before_square) < halting.threshold;
                if (halting.rule == ML_HALT_EXIT_GATE) halted = 1 - survival >= halting.threshold;
                halted = halted && applied + 1 >= halting.min_loops;
            }
            for (uint32_t loop = applied; loop < filled_loops; loop++)
                for (uint32_t place = 0; place < kBlocks; place++)
                    for (uint8_t *cache : {keys, values})
                        for (size_t head = 0; head < kKvHeads; head++) {
                            uint8_t *at = cache + (head * kCapacity + position) * vector_bytes();
                            std::copy_n(at + ((applied - 1) * kBlocks + place) * slot, vector_bytes(),
                                        at + (loop * kBlocks + place) * slot);
                        }
        }
    }
};

std::vector<ml_halting> rules_that_divide(const LoopWorld &world) {
    std::vector<ml_halting> rules;
    for (const double threshold : {0.1, 0.2, 0.4, 0.8})
        for (const uint32_t least : {1u, 2u}) {
            rules.push_back({ML_HALT_LATENT_DIFFERENCE, least, threshold, nullptr, 0});
            rules.push_back({ML_HALT_COSINE, least, threshold / 5, nullptr, 0});
            rules.push_back({ML_HALT_EXIT_GATE, least, 1 - threshold, world.gate.data(), -0.5f});
        }
    return rules;
}

void test_halting() {
    LoopWorld world;
    ml_context *one = nullptr;
    CHECK(ml_context_create(1, &one) == ML_OK);
    std::vector<ml_halting> rules = rules_that_divide(world);
    rules.push_back({ML_HALT_NONE, 0, 0, nullptr, 0});
    rules.push_back({ML_HALT_COSINE, 1, 9, nullptr, 0});
    int divided = 0; // cases in which some rows halt before others
    for (const uint32_t threads : {1u, 3u}) {
        ml_context *context = nullptr;
        CHECK(ml_context_create(threads, &context) == ML_OK);
        for (const ml_halting &rule : rules)
            for (const bool normed : {false, true})
                for (const uint32_t loops : {LoopWorld::kLoops, LoopWorld::kLoops - 1}) {
                    world.kv_type = normed ? ML_KV_I8 : loops == LoopWorld::kLoops ? ML_KV_F32 : ML_KV_F16;
                    world.normed = normed;
                    world.damping = loops == LoopWorld::kLoops ? 1 : 0.5f;
                    LoopWorld::Outcome found = world.outcome(), expected = world.outcome();
                    world.call(context, found, rule, loops, LoopWorld::kLoops);
                    world.step_by_step(one, expected, rule, loops, LoopWorld::kLoops);
                    CHECK(found.applied == expected.applied);
                    CHECK(same_bits(found.hidden, expected.hidden));
                    CHECK(found.keys == expected.keys && found.values == expected.values);
                    const auto [least, most] = std::minmax_element(found.applied.begin(), found.applied.end());
                    CHECK(*least >= 1 && *most <= loops);
                    divided += *least < *most;
                }
        ml_context_destroy(context);
    }
    CHECK(divided >= 20);
    ml_context_destroy(one);
}

// One block over `tokens` rows in calls of `split` tokens; [tokens, kHidden].
std::vector<float> looped(ml_record block, uint32_t threads, ml_kv_type type, uint32_t tokens, uint32_t split,
                          bool full) {
    ml_context *context = nullptr;
    CHECK(ml_context_create(threads, &context) == ML_OK);
    std::vector<float> hidden(size_t{tokens} * kHidden);
    for (size_t i = 0; i < hidden.size(); i++) hidden[i] = std::sin(static_cast<float>(i * i % 1009));
    std::vector<uint8_t> keys(size_t{kKvHeads} * tokens * kv_vector_bytes(type, kHeadDim)), values(keys.size());
    for (uint32_t at = 0; at < tokens; at += split) {
        const ml_sequence sequence{keys.data(), values.data(), keys.size(), at};
        ml_loop_args args{};
        args.blocks = &block;
        args.num_blocks = args.loops = args.num_slots = 1;
        args.damping = 1;
        args.hidden_in = args.hidden_out = &hidden[size_t{at} * kHidden];
        args.hidden_size = kHidden;
        args.tokens = std::min(split, tokens - at);
        args.sequences = &sequence;
        args.num_sequences = 1;
        args.kv_type = type;
        args.full_attention = full;
        args.capacity = tokens;
        CHECK(ml_loop(context, &args) == ML_OK);
    }
    ml_context_destroy(context);
    return hidden;
}

void test_attention_of_a_call() {
    const std::vector<uint8_t> bytes = make_block(Scheme::float32);
    const ml_record block{bytes.data(), bytes.size()};
    constexpr uint32_t kTokens = 37;
    for (const ml_kv_type type : kKvTypes) {
        const std::vector<float> whole = looped(block, 1, type, kTokens, kTokens, false);
        const std::vector<float> full = looped(block, 1, type, kTokens, kTokens, true);
        for (const uint32_t threads : {1u, 2u, 3u}) {
            for (const uint32_t split : {1u, 5u, kTokens})
                CHECK(same_bits(looped(block, threads, type, kTokens, split, false), whole));
            CHECK(same_bits(looped(block, threads, type, kTokens, kTokens, true), full));
        }
        // The last token sees the same either way, the first does not; one token at a time there is no difference.
        const auto row = [](const std::vector<float> &hidden, size_t t) {
            return std::vector<float>(hidden.begin() + static_cast<std::ptrdiff_t>(t * kHidden),
                                      hidden.begin() + static_cast<std::ptrdiff_t>((t + 1) * kHidden));
        };
        CHECK(same_bits(row(full, kTokens - 1), row(whole, kTokens - 1)));
        CHECK(!same_bits(row(full, 0), row(whole, 0)));
        CHECK(same_bits(looped(block, 1, type, kTokens, 1, true), whole));
    }
}

// Sequences that share a call see nothing of each other, whatever the call does besides.
void test_a_batch_that_uses_everything() {
    LoopWorld world;
    world.normed = true;
    std::vector<ml_halting> rules = rules_that_divide(world);
    rules.push_back({ML_HALT_NONE, 0, 0, nullptr, 0});
    ml_context *one = nullptr;
    CHECK(ml_context_create(1, &one) == ML_OK);
    int divided = 0, seen_later = 0;
    for (const uint32_t threads : {1u, 3u}) {
        ml_context *context = nullptr;
        CHECK(ml_context_create(threads, &context) == ML_OK);
        for (const ml_kv_type type : kKvTypes)
            for (const ml_halting &rule : rules) {
                world.kv_type = type;
                LoopWorld::Outcome causal = world.outcome();
                world.full_attention = false;
                world.call(context, causal, rule, LoopWorld::kLoops, LoopWorld::kLoops);
                world.full_attention = true;
                LoopWorld::Outcome found = world.outcome(), expected = world.outcome();
                world.call(context, found, rule, LoopWorld::kLoops, LoopWorld::kLoops);
                for (uint32_t s = 0; s < LoopWorld::kSequences; s++)
                    world.call(one, expected, rule, LoopWorld::kLoops, LoopWorld::kLoops, s, 1);
                CHECK(found.applied == expected.applied);
                CHECK(same_bits(found.hidden, expected.hidden));
                CHECK(found.keys == expected.keys && found.values == expected.values);
                const auto [least, most] = std::minmax_element(found.applied.begin(), found.applied.end());
                divided += *least < *most;
                seen_later += !same_bits(found.hidden, causal.hidden);
            }
        ml_context_destroy(context);
    }
    CHECK(divided >= 20);
    CHECK(seen_later == static_cast<int>(2 * std::size(kKvTypes) * rules.size()));
    ml_context_destroy(one);
}

// Keys and values beyond float16: with infinities in the cache, every later token would not be a number.
void test_a_half_cache_holds_large_values() {
    std::vector<uint8_t> bytes = make_block(Scheme::float32);
    for (const size_t role : {size_t{2}, size_t{3}}) { // the key and value projections
        uint64_t offset = 0, size = 0;
        std::memcpy(&offset, &bytes[64 + 32 * role + 16], 8);
        std::memcpy(&size, &bytes[64 + 32 * role + 24], 8);
        for (size_t at = offset; at < offset + size; at += 4) put(bytes, at, uniform(-1e6f, 1e6f));
    }
    const ml_record record{bytes.data(), bytes.size()};
    ml_context *context = nullptr;
    CHECK(ml_context_create(1, &context) == ML_OK);
    std::vector<uint16_t> keys(kKvHeads * 4 * kHeadDim), values(keys.size());
    std::vector<float> hidden = random_floats(2 * kHidden);
    ml_loop_args args{};
    args.blocks = &record;
    args.num_blocks = args.loops = args.num_slots = 1;
    args.damping = 1;
    args.hidden_in = args.hidden_out = hidden.data();
    args.hidden_size = kHidden;
    args.tokens = 2;
    const ml_sequence sequence{keys.data(), values.data(), keys.size() * 2, 0};
    args.sequences = &sequence;
    args.num_sequences = 1;
    args.kv_type = ML_KV_F16;
    args.capacity = 4;
    CHECK(ml_loop(context, &args) == ML_OK);
    CHECK(std::all_of(hidden.begin(), hidden.end(), [](float x) { return std::isfinite(x); }));
    CHECK(std::count(values.begin(), values.end(), 0x7BFF) > 0);
    ml_context_destroy(context);
}

// -- artifacts ------------------------------------------------------------------------------------

std::string metadata(const std::string &stages, bool tied = true) {
    std::ostringstream text;
    text << "{\"format_version\":1,\"config\":{\"hidden_size\":" << kHidden << ",\"vocab_size\":" << kVocab
         << ",\"num_blocks\":1,\"num_kv_heads\":" << kKvHeads << ",\"head_dim\":" << kHeadDim
         << ",\"rms_norm_eps\":1e-05,\"tie_embeddings\":" << (tied ? "true" : "false")
         << "},\"context\":16,\"kv_bits\":16,\"schedule\":{\"stages\":[" << stages << "]}}";
    return text.str();
}

const char *const kStage =
    "{\"blocks\":[0],\"stages\":[],\"loops\":2,\"max_loops\":3,\"state\":\"h\",\"inject\":[],\"injection\":\"none\","
    "\"start\":\"carry\",\"loop_end_norm\":false,\"damping\":1.0,\"halting\":{\"rule\":\"none\",\"threshold\":0.0},"
    "\"kv_policy\":{\"kind\":\"own\",\"modulus\":0},\"causal\":true,\"noise\":false,\"low_rank\":0}";

std::string quoted(const std::string &text) {
    std::string out = "\"";
    for (const char c : text) out += c == '"' || c == '\\' ? std::string("\\") + c : std::string(1, c);
    return out + "\"";
}

// With a head, it lies behind the rest, and is the last thing that a token reads.
std::string make_artifact(const std::string &info, size_t *data_start = nullptr, bool head = false) {
    const std::vector<uint8_t> block = make_block(Scheme::int4), table = make_matrix(Scheme::int8);
    std::ostringstream header;
    size_t at = 0;
    const auto tensor = [&](const char *name, const char *type, size_t shape, size_t size) {
        header << ",\"" << name << "\":{\"dtype\":\"" << type << "\",\"shape\":[" << shape << "],\"data_offsets\":["
               << at << "," << at + size << "]}";
        at += size;
    };
    header << "{\"__metadata__\":{\"mobileloop\":" << quoted(info) << "}";
    tensor("embedding", "U8", table.size(), table.size());
    tensor("blocks.0", "U8", block.size(), block.size());
    tensor("final_norm", "F32", kHidden, size_t{kHidden} * 4);
    if (head) tensor("head", "U8", table.size(), table.size());
    header << "}";
    std::string text = header.str();
    text.resize((text.size() + 8 + 63) / 64 * 64 - 8, ' ');
    const uint64_t size = text.size();
    std::string file(reinterpret_cast<const char *>(&size), 8);
    file += text;
    if (data_start) *data_start = file.size();
    file.append(table.begin(), table.end());
    file.append(block.begin(), block.end());
    const std::vector<float> norm(kHidden, 1.0f);
    file.append(reinterpret_cast<const char *>(norm.data()), norm.size() * sizeof(float));
    if (head) file.append(table.begin(), table.end());
    return file;
}

struct TemporaryFile {
    char path[32] = "/tmp/mobileloop-test-XXXXXX";
    int descriptor = mkstemp(path);
    bool stored;
    explicit TemporaryFile(const std::string &bytes)
        : stored(write(descriptor, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size())) {}
    ~TemporaryFile() {
        close(descriptor);
        unlink(path);
    }
    TemporaryFile(const TemporaryFile &) = delete;
    TemporaryFile &operator=(const TemporaryFile &) = delete;
};

// Tokens of sequence 0.
ml_status run_alone(ml_session *session, const int64_t *tokens, uint32_t count, int all_logits, float *logits,
                    uint64_t logits_floats) {
    ml_run_args args{};
    args.num_sequences = 1;
    args.tokens = tokens;
    args.count = count;
    args.all_logits = all_logits;
    args.logits = logits;
    args.logits_floats = logits_floats;
    return ml_session_run(session, &args);
}

// Opens the bytes as a file and runs three tokens; true where all of it worked.
bool runs(const std::string &bytes, uint32_t threads = 1) {
    ml_model *model = nullptr;
    {
        const TemporaryFile file(bytes);
        if (!file.stored || ml_model_open(file.path, &model) != ML_OK) return false;
    }
    ml_session *session = nullptr;
    bool good = ml_session_create(model, threads, 0, 1, &session) == ML_OK;
    const uint32_t vocab = ml_model_vocab_size(model);
    ml_model_close(model);
    if (!good) return false;
    const int64_t tokens[] = {1, 5, 10};
    std::vector<float> logits(size_t{3} * vocab);
    good =
        run_alone(session, tokens, 3, 1, logits.data(), logits.size()) == ML_OK && ml_session_position(session, 0) == 3;
    good = good && ml_session_reset(session, 1) == ML_OK && ml_session_position(session, 0) == 0;
    good = good && run_alone(session, tokens, 2, 0, logits.data(), vocab) == ML_OK;
    ml_session_destroy(session);
    return good;
}

void test_artifacts() {
    size_t data_start = 0;
    const std::string good = make_artifact(metadata(kStage), &data_start);
    CHECK(runs(good));
    const auto swapped = [](const std::string &from, const std::string &to) {
        std::string text = kStage;
        const size_t at = text.find(from);
        CHECK(at != std::string::npos);
        return make_artifact(metadata(text.replace(at, from.size(), to)));
    };
    CHECK(runs(swapped("\"damping\":1.0", "\"damping\":0.5")));
    CHECK(runs(swapped("\"loop_end_norm\":false", "\"loop_end_norm\":true")));
    CHECK(
        runs(swapped("\"rule\":\"none\",\"threshold\":0.0", "\"rule\":\"cosine\",\"threshold\":0.5,\"min_loops\":2")));
    CHECK(runs(swapped("\"causal\":true", "\"causal\":false")));
    const char *const wrong[][2] = {
        {"\"blocks\":[0]", "\"blocks\":[1]"},
        {"\"blocks\":[0]", "\"blocks\":[]"},
        {"\"blocks\":[0]", "\"blocks\":[0.5]"},
        {"\"stages\":[]", "\"stages\":[{}]"},
        {"\"loops\":2", "\"loops\":4"},
        {"\"loops\":2", "\"loops\":0"},
        {"\"max_loops\":3", "\"max_loops\":1025"},
        {"\"state\":\"h\"", "\"state\":\"z\""},
        {"\"inject\":[]", "\"inject\":[\"e\"]"},
        {"\"injection\":\"none\"", "\"injection\":\"add\""},
        {"\"start\":\"carry\"", "\"start\":\"zeros\""},
        {"\"damping\":1.0", "\"damping\":0"},
        {"\"damping\":1.0", "\"damping\":1.5"},
        {"\"rule\":\"none\"", "\"rule\":\"router\""},
        {"\"rule\":\"none\"", "\"rule\":\"exit_gate\""},
        {"\"rule\":\"none\",\"threshold\":0.0", "\"rule\":\"cosine\",\"threshold\":-1"},
        {"\"threshold\":0.0", "\"threshold\":true"},
        {"\"threshold\":0.0", "\"threshold\":0.0,\"min_loops\":0"},
        {"\"threshold\":0.0", "\"threshold\":0.0,\"min_loops\":4"},
        {"\"kind\":\"own\"", "\"kind\":\"last\""},
        {"\"noise\":false", "\"noise\":true"},
        {"\"low_rank\":0", "\"low_rank\":8"},
    };
    for (const auto &change : wrong) {
        const bool ran = runs(swapped(change[0], change[1]));
        if (ran) std::printf("a stage with %s was accepted\n", change[1]);
        CHECK(!ran);
    }
    CHECK(runs(make_artifact(metadata(kStage, false), nullptr, true)));
    CHECK(!runs(make_artifact(metadata(kStage, false), nullptr, false)));
    CHECK(std::strstr(ml_last_error(), "no head is stored") != nullptr);
    CHECK(!runs(make_artifact(metadata(kStage, true), nullptr, true)));
    CHECK(std::strstr(ml_last_error(), "a head is stored although") != nullptr);
    CHECK(!runs(make_artifact(metadata(""))));
    CHECK(!runs(make_artifact("[]")));
    CHECK(!runs(make_artifact("{\"format_version\":4}")));
    for (const char *bits : {"8", "16", "32", "24", "4", "0"}) {
        std::string info = metadata(kStage);
        info.replace(info.find("\"kv_bits\":16") + 10, 2, bits);
        CHECK(runs(make_artifact(info)) == (bits[0] == '8' || bits[1] == '6' || bits[0] == '3'));
    }
    std::string many; // more slots than a file may ask for, in numbers that wrap 32 bits when multiplied
    for (int i = 0; i < 4096; i++) many += i ? ",0" : "0";
    std::string stage = kStage;
    stage.replace(stage.find("\"blocks\":[0]"), 12, "\"blocks\":[" + many + "]");
    stage.replace(stage.find("\"max_loops\":3"), 13, "\"max_loops\":1024");
    CHECK(!runs(make_artifact(metadata(stage))));
    for (size_t size = 0; size < good.size(); size += size < 64 ? 1 : 61) CHECK(!runs(good.substr(0, size)));
    int ran = 0;
    for (int round = 0; round < 800; round++) {
        std::string mutated = good;
        for (uint32_t i = 0; i <= below(2); i++) {
            const size_t header = round % 2 ? data_start : data_start + 352;
            mutated[below(static_cast<uint32_t>(round % 8 ? header : mutated.size()))] = static_cast<char>(rng());
        }
        ran += runs(mutated);
    }
    CHECK(ran < 800);
}

// The head takes rows in chunks: each gets the bits that it gets alone.
void test_a_head_of_many_rows() {
    const std::vector<uint8_t> bytes = make_matrix(Scheme::int4);
    const ml_record table{bytes.data(), bytes.size()};
    const uint32_t rows = 2 * kChunk + 3;
    const std::vector<float> hidden = random_floats(rows * kHidden);
    std::vector<float> together(rows * kVocab), alone(rows * kVocab);
    ml_context *context = nullptr;
    CHECK(ml_context_create(2, &context) == ML_OK);
    const auto head = [&](uint32_t first, uint32_t count, std::vector<float> &to) {
        return ml_head(context, table, nullptr, 0, hidden.data() + first * kHidden, count, kHidden,
                       to.data() + first * kVocab, kVocab) == ML_OK;
    };
    CHECK(head(0, rows, together));
    for (uint32_t row = 0; row < rows; row++) CHECK(head(row, 1, alone));
    CHECK(std::memcmp(together.data(), alone.data(), together.size() * sizeof(float)) == 0);
    ml_context_destroy(context);
}

void test_null_pointers() {
    ml_context *context = nullptr;
    ml_model *model = nullptr;
    ml_session *session = nullptr;
    CHECK(ml_context_create(1, &context) == ML_OK);
    const std::vector<uint8_t> bytes = make_matrix(Scheme::int8);
    const ml_record table{bytes.data(), bytes.size()};
    const int64_t token = 1;
    float hidden[kHidden] = {}, logits[kVocab];
    ml_loop_args args{};
    const ml_run_args run{};
    const auto says = [](ml_status status, const char *what) {
        return status == ML_FAILED && std::strstr(ml_last_error(), what) &&
               std::strstr(ml_last_error(), "null pointer");
    };
    CHECK(says(ml_use_kernels(nullptr), "kernel set"));
    CHECK(says(ml_context_create(1, nullptr), "context"));
    CHECK(says(ml_embed(nullptr, table, &token, 1, hidden, kHidden), "context"));
    CHECK(says(ml_embed(context, table, nullptr, 1, hidden, kHidden), "tokens"));
    CHECK(says(ml_embed(context, table, &token, 1, nullptr, kHidden), "hidden states"));
    CHECK(ml_embed(context, table, nullptr, 0, nullptr, kHidden) == ML_OK);
    CHECK(ml_embed(context, {nullptr, 64}, &token, 1, hidden, kHidden) == ML_FAILED);
    CHECK(says(ml_loop(nullptr, &args), "context"));
    CHECK(says(ml_loop(context, nullptr), "argument"));
    CHECK(says(ml_head(nullptr, table, nullptr, 0, hidden, 1, kHidden, logits, kVocab), "context"));
    CHECK(says(ml_head(context, table, nullptr, 0, nullptr, 1, kHidden, logits, kVocab), "hidden states"));
    CHECK(says(ml_head(context, table, nullptr, 0, hidden, 1, kHidden, nullptr, kVocab), "logits"));
    CHECK(ml_head(context, table, nullptr, 0, hidden, 1, kHidden, logits, kVocab) == ML_OK);
    CHECK(ml_head(context, table, nullptr, 0, hidden, 0, kHidden, logits, kVocab) == ML_FAILED);
    CHECK(says(ml_model_open(nullptr, &model), "path"));
    CHECK(says(ml_model_open("/dev/null", nullptr), "model"));
    CHECK(says(ml_session_create(nullptr, 1, 0, 1, &session), "model"));
    CHECK(says(ml_session_create(nullptr, 1, 0, 1, nullptr), "session"));
    CHECK(says(ml_session_run(nullptr, &run), "session"));
    CHECK(says(ml_session_set_halting(nullptr, nullptr), "session"));
    CHECK(says(ml_session_fork(nullptr, 0, 0), "session"));
    CHECK(says(ml_session_reset(nullptr, 0), "session"));
    CHECK(says(ml_session_reset_sequence(nullptr, 0), "session"));
    CHECK(says(ml_session_time(nullptr, 1), "session"));
    CHECK(says(ml_session_times(nullptr, nullptr, 1), "session"));
    CHECK(says(ml_session_slow_down(nullptr, 1), "session"));
    CHECK(says(ml_read_bandwidth(1, 1 << 16, 0.001, nullptr), "bandwidth"));
    ml_memory *memory = nullptr;
    double sample = 0;
    uint32_t count = 0;
    CHECK(says(ml_memory_create(1 << 16, 1, nullptr, 0, 0, nullptr), "memory"));
    CHECK(says(ml_memory_create(1 << 16, 1, nullptr, 1, 0, &memory), "cpus"));
    CHECK(says(ml_memory_read(nullptr, 1 << 16, ML_WARM, 0.001, &sample, 1, &count), "memory"));
    CHECK(ml_memory_create(1 << 16, 1, nullptr, 0, 0, &memory) == ML_OK);
    CHECK(says(ml_memory_read(memory, 1 << 16, ML_WARM, 0.001, nullptr, 1, &count), "samples"));
    CHECK(says(ml_memory_chase(memory, 1 << 16, ML_WARM, 0.001, &sample, 1, nullptr), "number of samples"));
    CHECK(ml_memory_chase(memory, 1 << 16, ML_WARM, 0.001, &sample, 0, &count) == ML_FAILED);
    ml_memory_destroy(memory);
    ml_memory_destroy(nullptr);
    CHECK(ml_context_threads(nullptr) + ml_model_vocab_size(nullptr) + ml_model_context(nullptr) +
              ml_model_max_loops(nullptr) + ml_model_num_stages(nullptr) + ml_session_position(nullptr, 0) ==
          0);
    ml_context_destroy(nullptr);
    ml_session_destroy(nullptr);
    ml_model_close(nullptr);
    ml_context_destroy(context);
    context = reinterpret_cast<ml_context *>(&args); // a failure leaves NULL, not what was there
    CHECK(ml_context_create(0, &context) == ML_FAILED && context == nullptr);
    const TemporaryFile file(make_artifact(metadata(kStage)));
    CHECK(ml_model_open(file.path, &model) == ML_OK && ml_session_create(model, 1, 0, 1, &session) == ML_OK);
    CHECK(says(ml_session_run(session, nullptr), "argument"));
    CHECK(says(ml_session_times(session, nullptr, 1), "times"));
    CHECK(run_alone(session, nullptr, 1, 0, logits, kVocab) == ML_FAILED);
    CHECK(run_alone(session, &token, 1, 0, nullptr, kVocab) == ML_FAILED);
    CHECK(ml_session_position(session, 0) == 0);
    ml_session_destroy(session);
    ml_model_close(model);
}

// The head is damaged while the file is open, so that a run fails after its blocks; then it is put right again.
void test_a_failed_run_leaves_the_position() {
    const std::string bytes = make_artifact(metadata(kStage, false), nullptr, true);
    const off_t head = static_cast<off_t>(bytes.size() - make_matrix(Scheme::int8).size());
    const TemporaryFile file(bytes);
    ml_model *model = nullptr;
    ml_session *session = nullptr;
    CHECK(ml_model_open(file.path, &model) == ML_OK && ml_session_create(model, 1, 0, 1, &session) == ML_OK);
    const int64_t tokens[] = {1, 5, 10};
    std::vector<float> logits(kVocab), again(kVocab);
    CHECK(run_alone(session, tokens, 1, 0, logits.data(), kVocab) == ML_OK);
    CHECK(run_alone(session, tokens + 1, 2, 0, logits.data(), kVocab) == ML_OK);
    CHECK(ml_session_reset(session, 0) == ML_OK);
    CHECK(run_alone(session, tokens, 1, 0, again.data(), kVocab) == ML_OK);
    CHECK(pwrite(file.descriptor, "none", 4, head) == 4);
    CHECK(run_alone(session, tokens + 1, 2, 0, again.data(), kVocab) == ML_FAILED);
    CHECK(ml_session_position(session, 0) == 1);
    CHECK(pwrite(file.descriptor, bytes.data() + head, 4, head) == 4);
    CHECK(run_alone(session, tokens + 1, 2, 0, again.data(), kVocab) == ML_OK);
    CHECK(ml_session_position(session, 0) == 3);
    CHECK(same_bits(again, logits));
    ml_session_destroy(session);
    ml_model_close(model);
}

struct OpenSession {
    ml_session *session = nullptr;
    OpenSession(const std::string &artifact, uint32_t threads, uint32_t num_sequences, uint32_t loops = 0) {
        const TemporaryFile file(artifact);
        ml_model *model = nullptr;
        CHECK(ml_model_open(file.path, &model) == ML_OK);
        CHECK(ml_session_create(model, threads, loops, num_sequences, &session) == ML_OK);
        ml_model_close(model);
    }
    ~OpenSession() { ml_session_destroy(session); }
    OpenSession(const OpenSession &) = delete;
    OpenSession &operator=(const OpenSession &) = delete;

    // Logits of the last tokens, or of all; nothing where the run was refused.
    std::vector<float> run(const std::vector<uint32_t> &sequences, const std::vector<int64_t> &tokens,
                           bool all_logits = false, uint32_t loops = 0) {
        ml_run_args args{};
        args.loops = loops;
        args.sequences = sequences.data();
        args.num_sequences = static_cast<uint32_t>(sequences.size());
        args.tokens = tokens.data();
        args.count = static_cast<uint32_t>(tokens.size() / sequences.size());
        args.all_logits = all_logits;
        std::vector<float> logits((all_logits ? tokens.size() : sequences.size()) * kVocab);
        args.logits = logits.data();
        args.logits_floats = logits.size();
        if (ml_session_run(session, &args) != ML_OK) logits.clear();
        return logits;
    }
};

std::vector<int64_t> random_tokens(size_t count) {
    std::vector<int64_t> tokens(count);
    for (int64_t &token : tokens) token = below(kVocab);
    return tokens;
}

std::vector<float> part(const std::vector<float> &values, size_t begin, size_t count) {
    const auto from = values.begin() + static_cast<std::ptrdiff_t>(begin);
    return {from, from + static_cast<std::ptrdiff_t>(count)};
}

// Sequences of different lengths, in any order and company, get the bits that each gets alone.
void test_a_batch_equals_each_alone() {
    const std::string artifact = make_artifact(metadata(kStage));
    for (const uint32_t threads : {1u, 3u}) {
        OpenSession batch(artifact, threads, 3), alone(artifact, 1, 3);
        const std::vector<std::vector<uint32_t>> runs = {{1}, {0, 1, 2}, {2, 0}, {2, 1, 0}, {1, 2}};
        const uint32_t counts[] = {4, 1, 3, 1, 2};
        for (size_t r = 0; r < runs.size(); r++)
            for (const bool all_logits : {false, true}) {
                const size_t count = all_logits ? 1 : counts[r], rows = all_logits ? count : 1;
                const std::vector<int64_t> tokens = random_tokens(runs[r].size() * count);
                const std::vector<float> together = batch.run(runs[r], tokens, all_logits);
                CHECK(together.size() == runs[r].size() * rows * kVocab);
                for (size_t i = 0; i < runs[r].size() && !together.empty(); i++) {
                    const std::vector<int64_t> own(tokens.begin() + static_cast<std::ptrdiff_t>(i * count),
                                                   tokens.begin() + static_cast<std::ptrdiff_t>((i + 1) * count));
                    CHECK(same_bits(alone.run({runs[r][i]}, own, all_logits),
                                    part(together, i * rows * kVocab, rows * kVocab)));
                }
            }
        for (uint32_t s = 0; s < 3; s++)
            CHECK(ml_session_position(batch.session, s) == ml_session_position(alone.session, s));
    }
}

// A fork goes on as the original would, and neither sees what the other runs afterwards.
void test_streaming_changes_no_bit() {
    const std::string artifact = make_artifact(metadata(std::string(kStage) + "," + kStage));
    const std::vector<int64_t> tokens = random_tokens(6);
    const auto decode = [&](OpenSession &open) {
        std::vector<float> all;
        for (const int64_t token : tokens) {
            const std::vector<float> logits = open.run({0}, {token});
            all.insert(all.end(), logits.begin(), logits.end());
        }
        return all;
    };
    OpenSession plain(artifact, 1, 1);
    const std::vector<float> expected = decode(plain);
    CHECK(expected.size() == tokens.size() * kVocab);
    for (const uint32_t threads : {1u, 2u, 3u}) {
        OpenSession open(artifact, threads, 1);
        const auto again = [&] {
            CHECK(ml_session_reset(open.session, 0) == ML_OK);
            return decode(open);
        };
        CHECK(ml_session_stream(open.session, ML_STREAM_PREFETCH, 0) == ML_OK);
        CHECK(same_bits(again(), expected));
        for (uint32_t streaming = 0; streaming <= threads; streaming++) {
            const bool possible = streaming >= 1 && streaming < threads;
            CHECK((ml_session_stream(open.session, ML_STREAM_CORE, streaming) == ML_OK) == possible);
            if (possible) CHECK(same_bits(again(), expected));
        }
        CHECK(ml_session_stream(open.session, 3, 1) == ML_FAILED);
        uint32_t mode = 9, streaming = 9;
        CHECK(ml_session_calibrate(open.session, 0.01, &mode, &streaming) == ML_FAILED); // it holds tokens
        CHECK(ml_session_reset(open.session, 0) == ML_OK);
        for (const double seconds : {0.0, -1.0, 61.0, double{NAN}})
            CHECK(ml_session_calibrate(open.session, seconds, &mode, &streaming) == ML_FAILED);
        CHECK(ml_session_calibrate(open.session, 0.01, &mode, nullptr) == ML_FAILED);
        CHECK(ml_session_calibrate(open.session, 0.01, nullptr, &streaming) == ML_FAILED);
        CHECK(mode == 9 && streaming == 9);
        CHECK(ml_session_calibrate(open.session, 0.01, &mode, &streaming) == ML_OK);
        CHECK(mode <= ML_STREAM_CORE && streaming < threads && (mode == ML_STREAM_CORE) == (streaming > 0));
        CHECK(ml_session_position(open.session, 0) == 0);
        CHECK(same_bits(decode(open), expected));
    }
}

void test_a_fork_goes_on_as_the_original() {
    OpenSession session(make_artifact(metadata(kStage)), 2, 3);
    const std::vector<int64_t> prompt = random_tokens(5), first = random_tokens(2), second = random_tokens(2);
    CHECK(!session.run({0}, random_tokens(9)).empty()); // to be forgotten
    CHECK(ml_session_reset_sequence(session.session, 0) == ML_OK && ml_session_position(session.session, 0) == 0);
    CHECK(!session.run({1}, prompt).empty());
    for (const uint32_t to : {0u, 2u, 1u}) CHECK(ml_session_fork(session.session, 1, to) == ML_OK);
    CHECK(ml_session_position(session.session, 0) == 5 && ml_session_position(session.session, 2) == 5);
    const std::vector<float> expected_first = session.run({1}, first);
    CHECK(ml_session_reset_sequence(session.session, 1) == ML_OK);
    CHECK(!session.run({1}, prompt).empty());
    const std::vector<float> expected_second = session.run({1}, second);
    std::vector<int64_t> both = first;
    both.insert(both.end(), second.begin(), second.end());
    const std::vector<float> found = session.run({2, 0}, both);
    CHECK(found.size() == 2 * kVocab && same_bits(part(found, 0, kVocab), expected_first) &&
          same_bits(part(found, kVocab, kVocab), expected_second));
}

// What a token ran decides which keys later tokens see, not whether they see any: after tokens with few loops, one with
// many gives what it gives where a halting rule stopped the others there.
void test_loops_per_token() {
    const std::string artifact = make_artifact(metadata(kStage));
    OpenSession changing(artifact, 2, 2, 1), halting(artifact, 1, 1, 3);
    const std::vector<int64_t> tokens = random_tokens(6);
    const ml_halting at_once{ML_HALT_LATENT_DIFFERENCE, 1, 1e9, nullptr, 0};
    for (size_t t = 0; t < tokens.size(); t++) {
        const bool many = t % 3 == 2;
        const ml_halting none{ML_HALT_NONE, 0, 0, nullptr, 0};
        CHECK(ml_session_set_halting(halting.session, many ? &none : &at_once) == ML_OK);
        const std::vector<float> expected = halting.run({0}, {tokens[t]});
        CHECK(!expected.empty() && same_bits(changing.run({0}, {tokens[t]}, false, many ? 3 : 0), expected));
        if (t == 3) CHECK(ml_session_fork(changing.session, 0, 1) == ML_OK);
        if (t > 3) CHECK(same_bits(changing.run({1}, {tokens[t]}, false, many ? 3 : 1), expected));
    }
}

// Nanoseconds of the last run, or nothing where it was not timed.
std::vector<uint64_t> times_of(ml_session *session, size_t size) {
    std::vector<uint64_t> ns(size, 77);
    if (ml_session_times(session, ns.data(), size) != ML_OK) ns.clear();
    return ns;
}

// A time for every loop that ran and for none that did not, within what the run took, and no other bit of the result.
void test_times_of_loops() {
    const std::string artifact = make_artifact(metadata(std::string(kStage) + "," + kStage));
    OpenSession timed(artifact, 2, 1, 2), plain(artifact, 1, 1, 2);
    const std::vector<int64_t> tokens = random_tokens(4);
    CHECK(times_of(timed.session, 7).empty());
    CHECK(ml_session_time(timed.session, 2) == ML_FAILED);
    CHECK(ml_session_time(timed.session, 1) == ML_OK);
    CHECK(times_of(timed.session, 7).empty()); // nothing has run since
    for (const uint32_t loops : {1u, 2u, 3u}) {
        for (const size_t count : {size_t{1}, size_t{4}}) {
            const std::vector<int64_t> some(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(count));
            CHECK(ml_session_reset(timed.session, 0) == ML_OK && ml_session_reset(plain.session, 0) == ML_OK);
            const auto start = std::chrono::steady_clock::now();
            const std::vector<float> logits = timed.run({0}, some, false, loops);
            const std::chrono::nanoseconds whole = std::chrono::steady_clock::now() - start;
            CHECK(!logits.empty() && same_bits(plain.run({0}, some, false, loops), logits));
            CHECK(times_of(timed.session, 6).empty() && times_of(timed.session, 8).empty());
            const std::vector<uint64_t> ns = times_of(timed.session, 7); // two stages of up to three loops, the head
            CHECK(ns.size() == 7);
            uint64_t sum = 0;
            for (size_t i = 0; i < ns.size(); i++) {
                CHECK((ns[i] > 0) == (i == 6 || i % 3 < loops));
                sum += ns[i];
            }
            CHECK(sum <= static_cast<uint64_t>(whole.count()));
        }
    }
    CHECK(timed.run({0}, {int64_t{kVocab}}).empty() && times_of(timed.session, 7).empty()); // refused, so no times
    const ml_halting at_once{ML_HALT_LATENT_DIFFERENCE, 1, 1e9, nullptr, 0};
    CHECK(ml_session_set_halting(timed.session, &at_once) == ML_OK);
    CHECK(!timed.run({0}, {1}, false, 3).empty());
    const std::vector<uint64_t> halted = times_of(timed.session, 7);
    CHECK(halted.size() == 7 && halted[0] > 0 && halted[1] == 0 && halted[2] == 0 && halted[6] > 0);
    CHECK(ml_session_time(timed.session, 0) == ML_OK);
    CHECK(!timed.run({0}, {1}).empty() && times_of(timed.session, 7).empty());
}

// The times of a run that takes several chunks of several sequences, some of which halt, are those of all its chunks;
// the head runs once.
void test_times_of_a_batch_in_chunks() {
    std::string info = metadata(std::string(kStage) + "," + kStage);
    info.replace(info.find("\"context\":16"), 12, "\"context\":400");
    const std::string artifact = make_artifact(info);
    for (const uint32_t threads : {1u, 3u}) {
        OpenSession timed(artifact, threads, 2, 3), plain(artifact, 1, 2, 3);
        const ml_halting rule{ML_HALT_COSINE, 1, 0.05, nullptr, 0};
        for (const OpenSession *one : {&timed, &plain}) CHECK(ml_session_set_halting(one->session, &rule) == ML_OK);
        if (threads > 1) CHECK(ml_session_stream(timed.session, ML_STREAM_CORE, 1) == ML_OK);
        CHECK(ml_session_time(timed.session, 1) == ML_OK);
        for (const size_t count : {size_t{kChunk} + 3, size_t{1}}) {
            const std::vector<int64_t> tokens = random_tokens(2 * count);
            const auto start = std::chrono::steady_clock::now();
            const std::vector<float> logits = timed.run({0, 1}, tokens);
            const std::chrono::nanoseconds whole = std::chrono::steady_clock::now() - start;
            CHECK(!logits.empty() && same_bits(plain.run({0, 1}, tokens), logits));
            const std::vector<uint64_t> ns = times_of(timed.session, 7);
            CHECK(ns.size() == 7 && ns[0] > 0 && ns[3] > 0 && ns[6] > 0);
            uint64_t sum = 0;
            for (const uint64_t one : ns) sum += one;
            CHECK(sum <= static_cast<uint64_t>(whole.count()));
        }
        CHECK(ml_session_reset(timed.session, 0) == ML_OK);
        uint32_t mode = 0, stream_threads = 0;
        CHECK(ml_session_calibrate(timed.session, 0.001, &mode, &stream_threads) == ML_OK);
        CHECK(times_of(timed.session, 7).empty()); // its tokens are not the caller's
    }
}

void test_times_that_would_take_gigabytes() {
    std::string once = kStage, often = kStage;
    once.replace(once.find("\"loops\":2,\"max_loops\":3"), 23, "\"loops\":1,\"max_loops\":1");
    often.replace(often.find("\"max_loops\":3"), 13, "\"max_loops\":1024");
    for (const size_t more : {size_t{1023}, size_t{1024}}) {
        std::string stages = often;
        for (size_t i = 0; i < more; i++) stages += "," + once;
        OpenSession open(make_artifact(metadata(stages)), 1, 1, 1);
        const bool few = more == 1023;
        CHECK(ml_session_time(open.session, 1) == (few ? ML_OK : ML_FAILED));
        CHECK(few || std::strstr(ml_last_error(), "1025 stages of up to 1024 loops") != nullptr);
        CHECK(ml_session_time(open.session, 0) == ML_OK);
        CHECK(!open.run({0}, {1}).empty());
    }
}

void test_a_slowed_run_has_the_same_result() {
    const std::string artifact = make_artifact(metadata(kStage));
    OpenSession slow(artifact, 2, 1), plain(artifact, 1, 1);
    for (const double share : {-0.1, 11.0, double{NAN}, double{INFINITY}})
        CHECK(ml_session_slow_down(slow.session, share) == ML_FAILED);
    CHECK(ml_session_slow_down(slow.session, 10) == ML_OK && ml_session_time(slow.session, 1) == ML_OK);
    const auto start = std::chrono::steady_clock::now();
    CHECK(same_bits(slow.run({0}, {3, 1}), plain.run({0}, {3, 1})));
    const std::chrono::nanoseconds whole = std::chrono::steady_clock::now() - start;
    uint64_t own = 0;
    for (const uint64_t ns : times_of(slow.session, 4)) own += ns;
    CHECK(own > 0 && static_cast<uint64_t>(whole.count()) >= 11 * own); // it waits, and the loops do not
}

// A decoded token allocates nothing once the scratch memory has its size.
void test_a_warm_token_allocates_nothing() {
    OpenSession open(make_artifact(metadata(kStage)), 2, 2);
    CHECK(ml_session_time(open.session, 1) == ML_OK);
    const ml_halting rule{ML_HALT_COSINE, 1, 0.05, nullptr, 0};
    const int64_t tokens[] = {3, 7};
    float logits[2 * kVocab];
    uint32_t applied[2];
    ml_run_args args{};
    args.num_sequences = 2;
    args.tokens = tokens;
    args.count = 1;
    args.logits = logits;
    args.logits_floats = 2 * kVocab;
    args.applied_loops = applied;
    args.applied_size = 2;
    for (const ml_halting *halting : {static_cast<const ml_halting *>(nullptr), &rule}) {
        CHECK(ml_session_set_halting(open.session, halting) == ML_OK);
        CHECK(ml_session_run(open.session, &args) == ML_OK);
        const uint64_t before = allocations;
        CHECK(before > 0);
        for (int i = 0; i < 4; i++) CHECK(ml_session_run(open.session, &args) == ML_OK);
        CHECK(allocations == before);
    }
}

void test_runs_that_are_refused() {
    const std::string artifact = make_artifact(metadata(kStage));
    OpenSession open(artifact, 1, 2);
    ml_session *session = open.session, *none = nullptr;
    const TemporaryFile file(artifact);
    ml_model *model = nullptr;
    CHECK(ml_model_open(file.path, &model) == ML_OK);
    for (const uint32_t count : {0u, 1025u, 0xFFFFFFFFu})
        CHECK(ml_session_create(model, 1, 0, count, &none) == ML_FAILED && none == nullptr);
    CHECK(std::strstr(ml_last_error(), "sequences are outside 1-1024") != nullptr);
    ml_model_close(model);
    const uint32_t both[] = {0, 1}, twice[] = {1, 1}, beyond[] = {0, 2};
    const int64_t tokens[] = {1, 2, 3, -1};
    std::vector<float> logits(4 * kVocab);
    uint32_t applied[2] = {};
    const auto good = [&] {
        ml_run_args args{};
        args.sequences = both;
        args.num_sequences = 2;
        args.tokens = tokens;
        args.count = 1;
        args.logits = logits.data();
        args.logits_floats = 2 * kVocab;
        return args;
    };
    const std::pair<const char *, std::function<void(ml_run_args &)>> wrong[] = {
        {"listed twice", [&](ml_run_args &a) { a.sequences = twice; }},
        {"sequence 2 is outside 0-1", [&](ml_run_args &a) { a.sequences = beyond; }},
        {"outside 1-2", [](ml_run_args &a) { a.num_sequences = 0; }},
        {"outside 1-2", [](ml_run_args &a) { a.num_sequences = 3; }},
        {"no tokens", [](ml_run_args &a) { a.tokens = nullptr; }},
        {"no tokens", [](ml_run_args &a) { a.count = 0; }},
        {"do not fit the context", [](ml_run_args &a) { a.count = 17; }},
        {"do not fit the context", [](ml_run_args &a) { a.count = 0xFFFFFFFF; }},
        {"room for", [](ml_run_args &a) { a.logits_floats--; }},
        {"token -1", [](ml_run_args &a) { a.count = 2; }},
        {"room for", [](ml_run_args &a) { a.all_logits = 1, a.logits_floats = 0; }},
        {"no room", [](ml_run_args &a) { a.logits = nullptr; }},
        {"loops 4 is outside 1-3", [](ml_run_args &a) { a.loops = 4; }},
        {"applied loops", [&](ml_run_args &a) { a.applied_loops = applied, a.applied_size = 1; }},
    };
    for (const auto &[words, change] : wrong) {
        ml_run_args args = good();
        change(args);
        CHECK(ml_session_run(session, &args) == ML_FAILED && std::strstr(ml_last_error(), words) != nullptr);
        CHECK(ml_session_position(session, 0) + ml_session_position(session, 1) == 0);
    }
    const float gate[kHidden] = {};
    const std::pair<const char *, ml_halting> wrong_rules[] = {
        {"is unknown", {9u, 1, 0.5, nullptr, 0}},
        {"least loops", {ML_HALT_COSINE, 0, 0.5, nullptr, 0}},
        {"outside 1-3", {ML_HALT_COSINE, 4, 0.5, nullptr, 0}},
        {"threshold", {ML_HALT_COSINE, 1, NAN, nullptr, 0}},
        {"weights of an exit gate", {ML_HALT_EXIT_GATE, 1, 0.5, nullptr, 0}},
        {"weights of another", {ML_HALT_EXIT_GATE, 1, 0.5, gate, 0}},
    };
    for (const auto &[words, rule] : wrong_rules)
        CHECK(ml_session_set_halting(session, &rule) == ML_FAILED && std::strstr(ml_last_error(), words) != nullptr);
    CHECK(ml_session_fork(session, 0, 2) == ML_FAILED && ml_session_fork(session, 2, 0) == ML_FAILED);
    CHECK(ml_session_reset_sequence(session, 2) == ML_FAILED && ml_session_position(session, 2) == 0);
    ml_run_args args = good();
    CHECK(ml_session_run(session, &args) == ML_OK);
    args.sequences = nullptr; // all, in order
    CHECK(ml_session_run(session, &args) == ML_OK && ml_session_position(session, 1) == 2);
}

// Threads that each have a session of their own share nothing but the model.
void test_sessions_in_threads() {
    const std::string good = make_artifact(metadata(kStage));
    std::atomic<int> worked{0};
    std::vector<std::thread> threads;
    for (uint32_t i = 0; i < 3; i++)
        threads.emplace_back([&, i] {
            for (int round = 0; round < 5; round++) worked += runs(good, 1 + i);
        });
    for (std::thread &thread : threads) thread.join();
    CHECK(worked == 15);
}

// Known answers of Philox4x32-10 (Random123's kat_vectors), and what mobileloop/decode/random.py makes of the same
// places.
void test_random_numbers() {
    CHECK(philox({0, 0, 0, 0}, 0) == (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
    CHECK(philox({~0u, ~0u, ~0u, ~0u}, ~uint64_t{0}) == (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
    CHECK(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822) ==
          (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
    CHECK(ml::uniform(0u, 0u, 0, 0) == 0x1.c2d38b1acc4fdp-1);
    CHECK(ml::uniform(7u, 3u, 1, 0) == 0x1.6e08e78fe6d88p-2);
    CHECK(ml::uniform(9223372036854775807u, 4294967305u, 5, 4) == 0x1.e5600053adc5ap-2);
    CHECK(std::fabs(normal_pair(7, 3, 1, 2)[0] - -1.564959168434143f) < 1e-6f);
    CHECK(std::fabs(normal_pair(7, 3, 1, 2)[1] - 1.2815955877304077f) < 1e-6f);
}

} // namespace

// engine_tests [SET]: under an emulator, each set once is enough.
int main(int argc, char **argv) {
    const Kernels &truth = scalar_kernels();
    for (const Kernels *set : every_set(argc > 1 ? argv[1] : "")) {
        use_kernels(set->name);
        test_loop_arguments();
        test_a_batch_equals_each_alone();
        test_streaming_changes_no_bit();
        test_a_fork_goes_on_as_the_original();
        test_halting();
        test_loops_per_token();
        test_times_of_loops();
        test_times_of_a_batch_in_chunks();
        test_a_slowed_run_has_the_same_result();
        test_a_head_of_many_rows();
        test_attention_of_a_call();
        test_a_batch_that_uses_everything();
        if (kThreadsOnly) continue;
        test_halves(*set);
        test_halves_saturate(*set);
        test_half_loads(*set);
        test_rms_norm(*set, truth);
        test_quantize(*set, truth);
        test_silu(*set, truth);
        test_exponential(*set);
        for (const Scheme scheme : kSchemes)
            for (const uint32_t group : {32u, 64u, 128u})
                if (group == 32 || scheme != Scheme::float32) test_multiply(*set, truth, scheme, group);
        test_dequantize_row();
        test_extreme_codes(*set, truth);
        test_attention(*set, truth);
        test_byte_cache(*set, truth);
        test_read(*set);
        test_random_numbers();
        test_records();
        test_record_groups();
        test_a_half_cache_holds_large_values();
        test_artifacts();
        test_null_pointers();
        test_a_failed_run_leaves_the_position();
        test_runs_that_are_refused();
        test_times_that_would_take_gigabytes();
        test_a_warm_token_allocates_nothing();
    }
    test_chain();
    test_memory();
    test_threads();
    test_some_of_the_threads();
    test_narrow_where_threads_stall();
    test_threads_that_cannot_be_started();
    test_scratch_after_a_failed_growth();
    test_kv_vector_bytes();
    test_json();
    test_sessions_in_threads();
    return outcome();
}
