// llama.cpp's own matrix-vector products of Q4_0 weights (arch/arm of ggml-cpu), between the same marks as ours:
//
//   ggml_product gemv-4x4 | gemv-4x8 | vec-dot ROWS COLS
//
// Linked with two of its files and nothing else of it: sections that are not reached are dropped.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "marks.h"

using namespace ml;

extern "C" {
using GemvFn = void(int n, float *s, size_t bs, const void *weights, const void *x, int rows_of_x, int rows);
GemvFn ggml_gemv_q4_0_4x4_q8_0, ggml_gemv_q4_0_4x8_q8_0;
void ggml_vec_dot_q4_0_q8_0(int n, float *s, size_t bs, const void *weights, size_t bx, const void *x, size_t by,
                            int count);
}

namespace {

constexpr size_t kWeightBytes = 18, kInputBytes = 34; // of 32 values: a float16 scale, then the codes

// Blocks of 32 random codes; rows interleaved by 4 have 4 scales and then the codes of the 4, which is as random.
std::vector<uint8_t> blocks(size_t count, size_t bytes, std::mt19937 &random) {
    std::vector<uint8_t> made(count * bytes);
    for (uint8_t &byte : made) byte = static_cast<uint8_t>(random() & 0x3F);
    return made;
}

} // namespace

int main(int argc, char **argv) {
    const int rows = argc == 4 ? std::atoi(argv[2]) : 0, cols = argc == 4 ? std::atoi(argv[3]) : 0;
    if (rows < 4 || rows % 4 || cols < 64 || cols % 64) {
        std::fprintf(stderr, "ggml_product gemv-4x4 | gemv-4x8 | vec-dot ROWS COLS: multiples of 4 and of 64\n");
        return 2;
    }
    std::mt19937 random(1);
    const size_t groups = static_cast<size_t>(cols) / 32, row_bytes = groups * kWeightBytes;
    const std::vector<uint8_t> weights = blocks(groups * static_cast<size_t>(rows), kWeightBytes, random);
    const std::vector<uint8_t> x = blocks(groups, kInputBytes, random);
    std::vector<float> y(static_cast<size_t>(rows));
    mark(Region::weights, weights.data(), weights.size());
    mark(Mark::warm);
    mark(Mark::count);
    if (!std::strcmp(argv[1], "gemv-4x4")) {
        ggml_gemv_q4_0_4x4_q8_0(cols, y.data(), y.size(), weights.data(), x.data(), 1, rows);
    } else if (!std::strcmp(argv[1], "gemv-4x8")) {
        ggml_gemv_q4_0_4x8_q8_0(cols, y.data(), y.size(), weights.data(), x.data(), 1, rows);
    } else {
        for (size_t row = 0; row < y.size(); row++)
            ggml_vec_dot_q4_0_q8_0(cols, &y[row], 0, weights.data() + row * row_bytes, 0, x.data(), 0, 1);
    }
    mark(Mark::report);
    return 0;
}
