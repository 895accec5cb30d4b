// The threads of an operator: one pool for all kernels of sessions with the same threads on the same cpus.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "node.h"

namespace ml::onnx {

struct Threads {
    uint32_t count;
    std::vector<uint32_t> cpus; // as in ml_context_place

    bool operator<(const Threads &other) const { return std::tie(count, cpus) < std::tie(other.count, other.cpus); }
};

struct Pool {
    std::mutex mutex; // held for the length of one operator
    ml_context *context = nullptr;

    explicit Pool(const Threads &threads) {
        ran(ml_context_create(threads.count, &context));
        const ml_status placed =
            ml_context_place(context, threads.cpus.data(), static_cast<uint32_t>(threads.cpus.size()));
        if (placed != ML_OK) ml_context_destroy(context);
        ran(placed);
    }
    ~Pool() { ml_context_destroy(context); }
    Pool(const Pool &) = delete;
    Pool &operator=(const Pool &) = delete;
};

std::shared_ptr<Pool> pool_of(const Threads &threads);

// The session's configuration entries; without them the big cores. Cpus are numbers with commas between.
Threads threads_of(const OrtSessionOptions *options);

} // namespace ml::onnx
