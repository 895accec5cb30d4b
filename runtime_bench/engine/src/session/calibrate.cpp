// Which streaming mode suits this machine and this model: found by trying.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "error.h"
#include "session/session.h"

using namespace ml;

void ml_session::calibrate(double seconds) {
    require(std::isfinite(seconds) && seconds > 0 && seconds <= 60, "the time is outside (0, 60] seconds");
    require(std::all_of(positions_.begin(), positions_.end(), [](uint32_t position) { return position == 0; }),
            "a session that holds tokens cannot be calibrated; reset it first");
    struct Trial {
        uint32_t mode, stream_threads;
        std::vector<double> times;
    };
    std::vector<Trial> trials{{ML_STREAM_OFF, 1, {}}, {ML_STREAM_PREFETCH, 1, {}}};
    if (context_.pool.size() > 1) trials.push_back({ML_STREAM_CORE, 1, {}});
    std::vector<float> logits(model_->vocab_size);
    const int64_t token = 0;
    const uint32_t sequence = 0;
    ml_run_args args{};
    args.tokens = &token;
    args.count = 1;
    args.sequences = &sequence;
    args.num_sequences = 1;
    args.logits = logits.data();
    args.logits_floats = logits.size();
    const uint32_t mode_before = context_.stream_mode(), threads_before = context_.stream_threads();
    using Clock = std::chrono::steady_clock;
    const Clock::time_point start = Clock::now();
    const auto passed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
    do { // a token under each in turn, so that whatever else the machine does meets all of them
        for (Trial &trial : trials) {
            context_.stream(trial.mode, trial.stream_threads);
            positions_[sequence] = 0;
            const double before = passed();
            try {
                run(args);
            } catch (...) {
                context_.stream(mode_before, threads_before);
                throw;
            }
            trial.times.push_back(passed() - before);
        }
    } while (passed() < seconds || trials[0].times.size() < 3);
    positions_[sequence] = 0;
    timed_ = false; // these were not the caller's runs
    for (Trial &trial : trials)
        std::nth_element(trial.times.begin(), trial.times.begin() + static_cast<ptrdiff_t>(trial.times.size() / 2),
                         trial.times.end());
    const auto median = [](const Trial &trial) { return trial.times[trial.times.size() / 2]; };
    const Trial &best = *std::min_element(trials.begin(), trials.end(),
                                          [&](const Trial &a, const Trial &b) { return median(a) < median(b); });
    const Trial &kept = median(best) < 0.98 * median(trials[0]) ? best : trials[0];
    context_.stream(kept.mode, kept.stream_threads);
}
