"""The interval of a median over rounds."""

import numpy as np
import pytest

from mobileloop_bench.results.bootstrap import as_rounds, expanded, median_interval, ratio_interval, stable


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


@pytest.mark.parametrize("rounds", [5, 8, 21])
def test_the_interval_holds_the_true_median_as_often_as_it_says(rounds: int) -> None:
    """95% of 300 runs, less what 300 runs may miss by chance; few rounds included, whose samples share a mood."""
    generator = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        times = 100 + generator.normal(0, 3, (rounds, 1)) + generator.normal(0, 2, (rounds, 12))
        found = median_interval(times.ravel().tolist(), 12)
        assert found is not None
        held += found.low <= 100 <= found.high
    assert held >= 276  # 92%


def test_few_rounds_ask_for_more_of_the_resamples() -> None:
    assert expanded(0.95, 5) == pytest.approx(0.9981, abs=2e-4)  # t of 4 degrees is 2.776
    assert expanded(0.95, 8) == pytest.approx(0.9885, abs=2e-4)  # of 7, 2.365
    assert expanded(0.95, 10**6) == pytest.approx(0.95, abs=1e-5)


def test_a_documents_claim_of_samples_per_round_is_no_size() -> None:
    assert as_rounds([1.0, 2.0], 10**30).shape == (0, 3)
    assert median_interval([1.0], 10**30) is None


@pytest.mark.parametrize("per_round", [1, 3])
def test_more_rounds_narrow_it(per_round: int) -> None:
    generator = np.random.default_rng(1)
    few, many = (half_width(list(generator.normal(100, 3, n * per_round)), per_round) for n in (6, 200))
    assert few is not None
    assert many is not None
    assert many < few


def test_more_rounds_than_a_run_has_are_joined() -> None:
    many = np.random.default_rng(2).normal(10, 1, 50_001)
    found = median_interval(many.tolist(), 1)
    assert found is not None
    assert found.low < 10 < found.high
    assert found.half_width < 0.01
    wide = ratio_interval(many[:, None], 2 * many[:, None], quantile=0.5, confidence=0.95, drift=0.0, paired=True)
    assert (wide.low, wide.high) == pytest.approx((2, 2))
