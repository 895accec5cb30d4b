// Picking the next token, with the semantics and the random numbers of `mobileloop run` (docs/random.md).
#pragma once

#include <cstdint>
#include <vector>

namespace ml {

struct Sampling {
    double temperature = 0; // 0 takes the most likely token
    uint32_t top_k = 0;     // keeps the k likeliest; 0: all
    double top_p = 1;       // of those, the smallest set whose probability reaches this share of theirs
    double min_p = 0;       // of those, the tokens at least this share as likely as the likeliest
    uint64_t seed = 0;
};

class Sampler {
public:
    explicit Sampler(Sampling sampling) : sampling_(sampling) {}
    uint32_t pick(const std::vector<float> &logits);

private:
    Sampling sampling_;
    uint64_t position_ = 0; // tokens drawn before
};

} // namespace ml
