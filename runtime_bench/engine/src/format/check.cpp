#include "format/check.h"

#include <cmath>

#include "error.h"

namespace ml {

uint64_t product(std::initializer_list<uint64_t> factors) {
    uint64_t result = 1;
    for (const uint64_t factor : factors)
        require(!__builtin_mul_overflow(result, factor, &result), "a size overflows 64 bits");
    return result;
}

void check_halting(const ml_halting &halting) {
    const bool gate = halting.rule == ML_HALT_EXIT_GATE;
    require(halting.rule == ML_HALT_NONE || halting.rule == ML_HALT_LATENT_DIFFERENCE ||
                halting.rule == ML_HALT_COSINE || gate,
            "the halting rule ", halting.rule, " is unknown");
    if (halting.rule == ML_HALT_NONE) return;
    require(halting.min_loops >= 1, "a halting rule's least loops are 0, and a stage runs at least once");
    require(std::isfinite(halting.threshold) && halting.threshold >= 0, "the halting threshold ", halting.threshold,
            " is not a number of at least 0");
    require(!gate || (halting.threshold > 0 && halting.threshold <= 1), "the exit gate's threshold ", halting.threshold,
            " is outside (0, 1]");
}

} // namespace ml
