#include "sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "error.h"

namespace ml {
namespace {

// numpy.random.SeedSequence of a whole number: a pool of four words, stirred; the state comes out of the pool.
std::array<uint64_t, 4> seed_words(uint64_t seed) {
    constexpr size_t kPool = 4;
    std::array<uint32_t, kPool> pool{};
    uint32_t multiplier = 0x43B0D7E5;
    const auto hash = [&](uint32_t value, uint32_t factor) {
        value ^= multiplier;
        multiplier *= factor;
        value *= multiplier;
        return value ^ value >> 16;
    };
    const auto mix = [](uint32_t x, uint32_t y) {
        const uint32_t result = 0xCA01F9DDu * x - 0x4973F715u * y;
        return result ^ result >> 16;
    };
    const std::array<uint32_t, kPool> entropy{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
    for (size_t i = 0; i < kPool; i++) pool[i] = hash(entropy[i], 0x931E8875);
    for (size_t from = 0; from < kPool; from++)
        for (size_t to = 0; to < kPool; to++)
            if (from != to) pool[to] = mix(pool[to], hash(pool[from], 0x931E8875));
    multiplier = 0x8B51F9DD;
    std::array<uint64_t, 4> words{};
    for (size_t i = 0; i < 2 * words.size(); i++)
        words[i / 2] |= uint64_t{hash(pool[i % kPool], 0x58F38DED)} << (i % 2 * 32);
    return words;
}

} // namespace

Random::Random(uint64_t seed) {
    const auto words = seed_words(seed);
    const auto join = [](uint64_t high, uint64_t low) { return static_cast<unsigned __int128>(high) << 64 | low; };
    increment_ = join(words[2], words[3]) << 1 | 1;
    step();
    state_ += join(words[0], words[1]);
    step();
}

void Random::step() {
    constexpr unsigned __int128 kFactor =
        static_cast<unsigned __int128>(0x2360ED051FC65DA4u) << 64 | 0x4385DF649FCCF645u;
    state_ = state_ * kFactor + increment_;
}

uint64_t Random::next() {
    step();
    const uint64_t mixed = static_cast<uint64_t>(state_ >> 64) ^ static_cast<uint64_t>(state_);
    const unsigned turn = static_cast<unsigned>(state_ >> 122);
    return mixed >> turn | mixed << ((64 - turn) % 64);
}

Sampler::Sampler(double temperature, uint32_t top_k, double top_p, uint64_t seed)
    : temperature_(temperature), top_p_(top_p), top_k_(top_k), random_(seed) {}

uint32_t Sampler::pick(const std::vector<float> &logits) {
    if (temperature_ <= 0) {
        const auto nan = std::find_if(logits.begin(), logits.end(), [](float x) { return std::isnan(x); });
        return static_cast<uint32_t>((nan != logits.end() ? nan : std::max_element(logits.begin(), logits.end())) -
                                     logits.begin());
    }
    std::vector<double> probabilities(logits.size());
    const double largest = static_cast<double>(*std::max_element(logits.begin(), logits.end())) / temperature_;
    for (size_t i = 0; i < logits.size(); i++)
        probabilities[i] = std::exp(static_cast<double>(logits[i]) / temperature_ - largest);
    double total = std::accumulate(probabilities.begin(), probabilities.end(), 0.0);
    require(std::isfinite(total) && total > 0, "the model's logits are no numbers, so no token can be drawn from them");
    std::vector<uint32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t a, uint32_t b) { return probabilities[a] > probabilities[b]; });
    if (top_k_ && top_k_ < order.size()) {
        order.resize(top_k_);
        total = 0;
        for (const uint32_t token : order) total += probabilities[token];
    }
    size_t kept = 0;
    double sum = 0; // of the kept
    for (; kept < order.size() && (top_p_ >= 1 || sum < top_p_ * total); kept++) sum += probabilities[order[kept]];
    const double drawn = random_.uniform() * sum;
    double below = 0;
    for (size_t i = 0; i + 1 < kept; i++) {
        below += probabilities[order[i]];
        if (below > drawn) return order[i];
    }
    return order[kept ? kept - 1 : 0];
}

} // namespace ml
