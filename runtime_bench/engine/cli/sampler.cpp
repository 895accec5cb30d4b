#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "error.h"
#include "random.h"

namespace ml {
namespace {

constexpr const char *kNoNumbers =
    "the model's logits are no numbers, so no token can be drawn from them; its weights are damaged or too large for "
    "the artifact's types: try an export with --quantize none";

} // namespace

uint32_t Sampler::pick(const std::vector<float> &logits) {
    const double drawn = uniform(sampling_.seed, position_++);
    const double temperature = sampling_.temperature;
    if (temperature <= 0) {
        const bool nan = std::any_of(logits.begin(), logits.end(), [](float x) { return std::isnan(x); });
        const auto likeliest = std::max_element(logits.begin(), logits.end());
        require(!nan && std::isfinite(*likeliest), kNoNumbers);
        return static_cast<uint32_t>(likeliest - logits.begin());
    }
    std::vector<double> likelihoods(logits.size());
    const double largest = static_cast<double>(*std::max_element(logits.begin(), logits.end())) / temperature;
    for (size_t i = 0; i < logits.size(); i++) {
        likelihoods[i] = std::exp(static_cast<double>(logits[i]) / temperature - largest);
        require(std::isfinite(likelihoods[i]), kNoNumbers);
    }
    std::vector<uint32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t a, uint32_t b) { return likelihoods[a] > likelihoods[b]; });
    if (sampling_.top_k && sampling_.top_k < order.size()) order.resize(sampling_.top_k);
    std::vector<double> sums(order.size());
    double sum = 0;
    for (size_t i = 0; i < order.size(); i++) sums[i] = sum += likelihoods[order[i]];
    size_t kept = 0;
    if (sampling_.top_p < 1)
        while (kept < sums.size() && sums[kept] < sampling_.top_p * sum) kept++;
    kept = sampling_.top_p < 1 ? std::min(kept + 1, sums.size()) : sums.size();
    while (kept > 1 && likelihoods[order[kept - 1]] < sampling_.min_p) kept--;
    const auto chosen =
        std::upper_bound(sums.begin(), sums.begin() + static_cast<ptrdiff_t>(kept - 1), drawn * sums[kept - 1]);
    return order[static_cast<size_t>(chosen - sums.begin())];
}

} // namespace ml
