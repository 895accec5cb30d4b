#include "loop/halting.h"

#include <cmath>

namespace ml {
namespace {

// In double and in order, whatever the kernel set and the number of threads: both must come to the same decision.
double dot(const float *a, const float *b, size_t size) {
    double sum = 0;
    for (size_t i = 0; i < size; i++) sum += double{a[i]} * double{b[i]};
    return sum;
}

double squared_distance(const float *a, const float *b, size_t size) {
    double sum = 0;
    for (size_t i = 0; i < size; i++) sum += (double{a[i]} - double{b[i]}) * (double{a[i]} - double{b[i]});
    return sum;
}

} // namespace

// A comparison with what is not a number is false: a zero state has no direction, and infinities have no distance.
bool halts(const ml_halting &halting, const float *before, const float *after, size_t size, double &survival) {
    switch (halting.rule) {
    case ML_HALT_LATENT_DIFFERENCE:
        return std::sqrt(squared_distance(after, before, size)) / std::sqrt(dot(after, after, size)) <
               halting.threshold;
    case ML_HALT_COSINE: {
        const double lengths = std::sqrt(dot(after, after, size)) * std::sqrt(dot(before, before, size));
        return 1 - dot(after, before, size) / lengths < halting.threshold;
    }
    case ML_HALT_EXIT_GATE: // survival times 1 - sigmoid(x), which is sigmoid(-x)
        survival /= 1 + std::exp(dot(halting.gate, after, size) + double{halting.gate_bias});
        return 1 - survival >= halting.threshold;
    case ML_HALT_NONE: break;
    }
    return false;
}

} // namespace ml
