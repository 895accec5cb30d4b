// Streaming: bringing what is read next towards the cache while resident blocks are applied again.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "format/record.h"

namespace ml {

// The part of `total` that a thread owns: the same for every application, so that a core meets its own rows again.
struct Range {
    size_t begin, end;
};
inline Range share(size_t total, uint32_t thread, uint32_t threads) {
    return {total * thread / threads, total * (thread + 1) / threads};
}

// What one thread asks for while it computes: its own rows of the next matrices, in reading order, a few lines at every
// tile, so that the memory is busy while the arithmetic runs from cache.
class alignas(128) Stream { // on lines of its own: it changes with every tile
public:
    void clear() {
        parts_.clear();
        part_ = 0;
    }
    // Room for so many matrices, so that add() allocates nothing inside a parallel region.
    void reserve(size_t matrices) { parts_.reserve(matrices); }
    // Takes at most `budget` bytes and lowers it by what it took.
    void add(const Matrix &matrix, uint32_t thread, uint32_t threads, uint64_t &budget) {
        const Range own = share(matrix.row_groups, thread, threads);
        const uint64_t row_bytes = uint64_t{matrix.groups} * tile_bytes(matrix.scheme, matrix.group);
        const uint64_t bytes = std::min((own.end - own.begin) * row_bytes, budget);
        if (bytes == 0) return;
        const uint8_t *begin = matrix.tiles + own.begin * row_bytes;
        parts_.push_back({begin, begin + bytes});
        budget -= bytes;
    }
    // Spreads all parts evenly over `bytes` of weights that this thread is about to compute with.
    void pace(uint64_t bytes) {
        uint64_t total = 0;
        for (const Part &part : parts_) total += static_cast<uint64_t>(part.end - part.begin);
        rate_ = bytes ? total * kOne / bytes + 1 : 0;
        credit_ = 0;
        part_ = 0;
        at_ = parts_.empty() ? nullptr : parts_[0].begin;
    }
    // `bytes` of weights were computed with.
    void advance(size_t bytes) {
        credit_ += bytes * rate_;
        for (; credit_ >= kLine * kOne && part_ < parts_.size(); credit_ -= kLine * kOne) {
            __builtin_prefetch(at_, 0, 2);
            at_ += kLine;
            if (at_ >= parts_[part_].end && ++part_ < parts_.size()) at_ = parts_[part_].begin;
        }
    }

private:
    static constexpr uint64_t kOne = 1 << 16, kLine = 64;
    struct Part {
        const uint8_t *begin, *end;
    };
    std::vector<Part> parts_;
    size_t part_ = 0;
    const uint8_t *at_ = nullptr;
    uint64_t rate_ = 0, credit_ = 0; // bytes to ask for per byte computed with, in units of 1 / kOne
};

// The whole work of one of `readers` streaming threads: reads its part of the matrices into the cache that it shares
// with the computing threads, until it is through or `stop` is set.
inline uint64_t read_ahead(const std::vector<Matrix> &matrices, uint32_t reader, uint32_t readers,
                           const std::atomic<bool> &stop) {
    constexpr size_t kLine = 64, kPage = 4096;
    uint64_t sum = 0; // returned, so that the reads are not dropped
    for (const Matrix &matrix : matrices) {
        const Range own = share(matrix.row_groups, reader, readers);
        const size_t row_bytes = matrix.groups * tile_bytes(matrix.scheme, matrix.group);
        for (size_t at = own.begin * row_bytes, lines = 0; at < own.end * row_bytes; at += kLine, lines++) {
            if (lines % (kPage / kLine) == 0 && stop.load(std::memory_order_relaxed)) return sum;
            sum += matrix.tiles[at];
        }
    }
    return sum;
}

} // namespace ml
