// Picking the next token, with the semantics and the random numbers of `mobileloop run` (mobileloop/decode/generate.py).
#pragma once

#include <cstdint>
#include <vector>

namespace ml {

// NumPy's default generator: PCG64 (XSL-RR 128/64, O'Neill 2014, section 6.3.3), seeded by numpy.random.SeedSequence.
class Random {
public:
    explicit Random(uint64_t seed);
    uint64_t next();
    double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; } // [0, 1)
    uint64_t below(uint64_t bound) { return next() % bound; }                // bound far below 2^64: hardly biased

private:
    void step();
    unsigned __int128 state_ = 0, increment_ = 0;
};

class Sampler {
public:
    // temperature 0 takes the most likely token. top_k keeps the k likeliest (0: all), then top_p keeps the smallest
    // set of those whose probability reaches it.
    Sampler(double temperature, uint32_t top_k, double top_p, uint64_t seed);
    uint32_t pick(const std::vector<float> &logits);

private:
    double temperature_, top_p_;
    uint32_t top_k_;
    Random random_;
};

} // namespace ml
