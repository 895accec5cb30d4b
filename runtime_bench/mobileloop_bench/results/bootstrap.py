"""How sure a measured time, or a ratio of two, is: rounds drawn again, as whole rounds, and the drift between two runs.

Samples of one round share what the machine did in those seconds, so they are no independent evidence; rounds nearly
are. What no round can show is a machine that was slower during the whole of one run. `drift` stands for that: the
standard deviation, as a share, of the ratio of two runs of one program. Runs that were measured in the same rounds
have none, and their rounds are drawn in pairs. The generator is seeded: the same samples always give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
RESAMPLES = 1000
MOST_ROUNDS = 1000  # of a run with a time budget
CHUNK = 1 << 21  # samples drawn at a time: 16 MiB
QUANTILES = {"p5": 0.05, "median": 0.5}
CONFIDENCE = 0.95  # of the interval of a median
DRIFT = 0.025  # between runs minutes apart on a shared virtual machine (docs/lab-log.md)
LEAST_ROUNDS = 5  # fewer give no interval worth the name
STABLE_HALF_WIDTH = 0.02


@dataclass(frozen=True)
class Interval:
    """A figure, and the interval that holds it with the asked-for confidence."""

    estimate: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the interval, as a share of the figure."""
        return (self.high - self.low) / 2 / self.estimate


def as_rounds(samples: Sequence[float], per_round: int) -> F64:
    """Samples in order as [rounds, samples per round]; a last round that was cut short is left out."""
    per_round = min(per_round, len(samples) + 1)  # a document may claim any number
    rounds = len(samples) // per_round
    return np.array(samples[: rounds * per_round], np.float64).reshape(rounds, per_round)


def _joined(times: F64) -> F64:
    """More rounds than a run ever has, joined with their neighbours, so that no file makes us draw gigabytes."""
    together = max(1, -(-len(times) // MOST_ROUNDS))
    whole = len(times) // together
    return times[: whole * together].reshape(whole, together * times.shape[1])


def median_interval(samples: Sequence[float], per_round: int) -> Interval | None:
    """The median of all whole rounds' samples, by the bootstrap over rounds (`expanded`); None with too few rounds."""
    times = _joined(as_rounds(samples, per_round))
    if len(times) < LEAST_ROUNDS:
        return None
    drawn = np.random.default_rng(0).integers(len(times), size=(RESAMPLES, len(times)))
    return _interval(_quantiles(times, drawn, 0.5), float(np.median(times)), expanded(CONFIDENCE, len(times)))


def expanded(confidence: float, rounds: int) -> float:
    """The share of the resamples whose range holds the true figure with this confidence.

    Of a few rounds it is more than the confidence itself: rounds drawn again spread less than rounds do, by
    sqrt((n - 1) / n), and how far these spread is itself known from n of them alone, which is what Student's t adds to
    the normal distribution (the expanded percentile interval of Hesterberg, The American Statistician 69(4), 2015).
    Without it 5 rounds held the median in 88% of the cases, not in 95%.
    """
    normal, freedom = NormalDist(), rounds - 1
    z = normal.inv_cdf((1 + confidence) / 2)
    t = z + (z**3 + z) / (4 * freedom)  # Fisher's expansion, within 0.4% from 4 degrees of freedom on
    t += (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return 2 * normal.cdf(t * math.sqrt(rounds / freedom)) - 1


def stable(samples: Sequence[float], per_round: int) -> bool:
    """Whether the median is known to within 2%: what `--until-stable` waits for."""
    found = median_interval(samples, per_round)
    return found is not None and found.half_width < STABLE_HALF_WIDTH


def ratio_interval(
    before: F64, after: F64, *, quantile: float, confidence: float, drift: float, paired: bool
) -> Interval:
    """The ratio, after over before, of one quantile of two runs' times, by the percentile bootstrap over rounds.

    Args:
        before, after: times [rounds, samples per round], in any unit.
        quantile: what is compared, such as 0.5 for the median.
        confidence: of the two-sided interval, between 0 and 1.
        drift: standard deviation of log(ratio) between two runs, beside what rounds show.
        paired: the rounds of both were measured together, in this order, so they are drawn together.
    """
    before, after = _joined(before), _joined(after)
    generator = np.random.default_rng(0)
    drawn = generator.integers(len(before), size=(RESAMPLES, len(before)))
    again = drawn if paired else generator.integers(len(after), size=(RESAMPLES, len(after)))
    logs = np.log(_quantiles(after, again, quantile)) - np.log(_quantiles(before, drawn, quantile))
    logs += generator.normal(0, drift, RESAMPLES)
    ratio = float(np.quantile(after, quantile) / np.quantile(before, quantile))
    return _interval(np.exp(logs), ratio, confidence)


def _interval(drawn: F64, estimate: float, confidence: float) -> Interval:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, min(float(low), estimate), max(float(high), estimate))


def _quantiles(times: F64, drawn: NDArray[np.int64], quantile: float) -> F64:
    """The quantile of every resample."""
    step = max(1, CHUNK // times.size)
    chunks = (times[drawn[start : start + step]] for start in range(0, len(drawn), step))
    return np.concatenate([np.quantile(one.reshape(len(one), -1), quantile, axis=1) for one in chunks])
