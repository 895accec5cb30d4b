"""The interval of a median over rounds."""

import numpy as np
import pytest

from mobileloop_bench.results.bootstrap import median_interval, stable


def half_width(samples: list[float], per_round: int) -> float | None:
    found = median_interval(samples, per_round)
    return found and found.half_width


def test_equal_rounds_are_stable_and_few_are_not() -> None:
    assert half_width([10.0, 11.0] * 5, 2) == 0
    assert stable([10.0] * 10, 2)
    assert half_width([10.0] * 8, 2) is None
    assert not stable([10.0] * 8, 2)


def test_whole_rounds_count_and_not_samples() -> None:
    alike = [10.0, 12.0] * 10  # every round has the same median
    apart = [10.0] * 10 + [12.0] * 10
    assert stable(alike, 2)
    assert not stable(apart, 2)


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        rounds = generator.normal(100, 3, 21)
        width = half_width(list(rounds), 1)
        assert width is not None
        held += abs(np.median(rounds) - 100) <= 1.3 * width * np.median(rounds)
    assert held >= 170


@pytest.mark.parametrize("per_round", [1, 3])
def test_more_rounds_narrow_it(per_round: int) -> None:
    generator = np.random.default_rng(1)
    few, many = (half_width(list(generator.normal(100, 3, n * per_round)), per_round) for n in (6, 200))
    assert few is not None
    assert many is not None
    assert many < few
