"""How well a median is known: what `--until-stable` waits for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000
STABLE_HALF_WIDTH = 0.02
LEAST_ROUNDS = 5  # fewer give no interval worth the name


def half_width(samples: Sequence[float], per_round: int) -> float | None:
    """Half of the 95% interval of the median, as a share of it; None with too few rounds.

    Samples of one round share what the machine did in those seconds, so whole rounds are drawn again (percentile
    bootstrap of the median of the rounds' medians, seeded: the same samples give the same width).
    """
    rounds = len(samples) // per_round
    if rounds < LEAST_ROUNDS:
        return None
    medians = np.median(np.reshape(samples[: rounds * per_round], (rounds, per_round)), axis=1)
    drawn = np.random.default_rng(0).integers(rounds, size=(RESAMPLES, rounds))
    low, high = np.quantile(np.median(medians[drawn], axis=1), [0.025, 0.975])
    return float((high - low) / 2 / np.median(medians))


def stable(samples: Sequence[float], per_round: int) -> bool:
    """Whether the median is known to within 2%."""
    width = half_width(samples, per_round)
    return width is not None and width < STABLE_HALF_WIDTH
