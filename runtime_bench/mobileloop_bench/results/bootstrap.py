"""How sure a ratio of two measured times is: rounds drawn again, as whole rounds, and the drift between two runs.

Samples of one round share what the machine did in those seconds, so they are no independent evidence; rounds nearly
are. What no round can show is a machine that was slower during the whole of one run. `drift` stands for that: the
standard deviation, as a share, of the ratio of two runs of one program. Runs that were measured in the same rounds
have none, and their rounds are drawn in pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
RESAMPLES = 1000
CHUNK = 1 << 21  # samples drawn at a time: 16 MiB
QUANTILES = {"p5": 0.05, "median": 0.5}


@dataclass(frozen=True)
class Interval:
    """A ratio of times, after over before, and the interval that holds it with the asked-for confidence."""

    ratio: float
    low: float
    high: float


def ratio_interval(
    before: F64, after: F64, *, quantile: float, confidence: float, drift: float, paired: bool
) -> Interval:
    """The ratio of one quantile of two runs' times, by the percentile bootstrap over rounds.

    The generator is seeded, so the same samples always give the same interval.

    Args:
        before, after: times [rounds, samples per round], in any unit.
        quantile: what is compared, such as 0.5 for the median.
        confidence: of the two-sided interval, between 0 and 1.
        drift: standard deviation of log(ratio) between two runs, beside what rounds show.
        paired: the rounds of both were measured together, in this order, so they are drawn together.
    """
    generator = np.random.default_rng(0)
    drawn = generator.integers(len(before), size=(RESAMPLES, len(before)))
    again = drawn if paired else generator.integers(len(after), size=(RESAMPLES, len(after)))
    logs = np.log(_quantiles(after, again, quantile)) - np.log(_quantiles(before, drawn, quantile))
    logs += generator.normal(0, drift, RESAMPLES)
    low, high = np.exp(np.quantile(logs, [(1 - confidence) / 2, (1 + confidence) / 2]))
    ratio = float(np.quantile(after, quantile) / np.quantile(before, quantile))
    return Interval(ratio, min(float(low), ratio), max(float(high), ratio))


def _quantiles(times: F64, drawn: NDArray[np.int64], quantile: float) -> F64:
    """The quantile of every resample."""
    step = max(1, CHUNK // times.size)
    chunks = (times[drawn[start : start + step]] for start in range(0, len(drawn), step))
    return np.concatenate([np.quantile(one.reshape(len(one), -1), quantile, axis=1) for one in chunks])
