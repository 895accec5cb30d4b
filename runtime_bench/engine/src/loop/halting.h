// Halting rules: whether a row stops before its loops are run.
#pragma once

#include <cstddef>

#include "mobileloop.h"

namespace ml {

// Whether a row halts behind a loop that took its state [size] from `before` to `after`. `survival` belongs to the row:
// 1 before its first loop, then the probability of not having left by the exit gate.
bool halts(const ml_halting &halting, const float *before, const float *after, size_t size, double &survival);

} // namespace ml
