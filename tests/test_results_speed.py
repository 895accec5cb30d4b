"""How fast the cores were beside each round, and which rounds are compared."""

from pathlib import Path

import numpy as np
import pytest
from bench_fakes import open_fakes, plan_of  # noqa: F401
from test_results_compare import document, row

from mobileloop.errors import MobileloopError
from mobileloop_bench.bandwidth.memory import Memory
from mobileloop_bench.checks.validity import paired, table
from mobileloop_bench.measure import speed
from mobileloop_bench.measure.rounds import measure
from mobileloop_bench.results.compare import Rule, compare_artifacts, compare_runs
from mobileloop_bench.results.speed import Speed, alike, at_full_speed, fastest_ns, slower


def speeds(*steps: float) -> list[Speed]:
    return [Speed(step_ns=step, read_gbps=10) for step in steps]


def test_the_slower_reading_counts() -> None:
    one, other = Speed(step_ns=2, read_gbps=9), Speed(step_ns=3, read_gbps=10)
    assert slower(one, other) == slower(other, one) == Speed(step_ns=3, read_gbps=9)
    assert slower(None, one) is slower(one, None) is None


def test_like_rounds() -> None:
    assert alike(speeds(2, 2, 4, 2), speeds(2.1, 3, 4.3)) == [0, 2]
    assert alike([None, *speeds(2)], speeds(2, 2)) == [1]
    assert at_full_speed([*speeds(2, 2.3, 2.1), None], 2) == [0, 2]
    assert fastest_ns([None, *speeds(3, 2)]) == 2
    assert fastest_ns([None]) is None


def test_every_turn_is_measured_beside(fake_artifact: Path) -> None:
    """Once before and once behind, by the engine's loops."""
    measurement = measure(plan_of(fake_artifact, repetitions=2))
    for samples in measurement.samples:
        assert len(samples.speeds) == 2
        assert all(one is not None and one.step_ns > 0 and one.read_gbps > 0 for one in samples.speeds)


def test_without_the_engine_no_speed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> Memory:
        raise MobileloopError("no engine")

    monkeypatch.setattr(speed, "Memory", missing)
    meter = speed.SpeedMeter()
    assert meter.read(1, None) is None
    meter.close()


def test_arithmetic_has_a_figure_for_each_thread() -> None:
    with Memory(1 << 20, 2) as memory:
        steps = memory.arithmetic_ns(0.001)
        assert len(steps) == 2
        assert min(steps) > 0
        with pytest.raises(MobileloopError, match="the time is outside"):
            memory.arithmetic_ns(0)


def test_two_runs_are_compared_in_rounds_at_full_speed() -> None:
    """A neighbour on the core took half of the second run: its rounds are left out, and nothing changed."""
    calm = np.ones((12, 32))
    slow = calm * np.resize([[1.0], [1.0], [1.5], [1.5], [1.5]], (12, 1))
    before = row(calm, speeds=speeds(*[2] * 12))
    rule = Rule(statistic="median")
    steps = np.resize([2, 2, 3, 3, 3], 12)
    (one,) = compare_runs(document(before), document(row(slow, speeds=speeds(*steps))), rule).comparisons
    assert (one.verdict, one.ratio) == ("no change", 1)
    (blind,) = compare_runs(document(before), document(row(slow)), rule).comparisons
    assert blind.ratio == 1.25


def test_two_artifacts_of_one_run_are_compared_in_pairs_of_like_rounds() -> None:
    times = np.resize([[1.0], [2.0]], (12, 1)) * np.ones((12, 32))
    one = row(times, speeds=speeds(*np.resize([2, 4], 12)))
    other = row(np.ones((12, 32)) * 1.2, artifact="b.safetensors", speeds=speeds(*[2] * 12))
    (found,) = compare_artifacts(document(one, other), "b.safetensors", "a.safetensors", Rule()).comparisons
    assert (found.verdict, found.ratio) == ("regression", pytest.approx(1.2))


def test_speeds_beyond_the_rounds_count_for_nothing() -> None:
    """A document may hold any number of them."""
    one = row(np.ones((8, 32)), speeds=speeds(*[2] * 8, *[1] * 4))
    other = row(np.ones((8, 32)), artifact="b.safetensors", speeds=speeds(*[2] * 12))
    (found,) = compare_artifacts(document(one, other), "b.safetensors", "a.safetensors", Rule()).comparisons
    (again,) = compare_runs(document(one), document(one), Rule()).comparisons
    assert (found.ratio, again.ratio) == (1, 1)


def test_pairs_of_the_check_agree_within_their_intervals_and_the_drift() -> None:
    generator = np.random.default_rng(0)

    def run(level: float, valid: bool = True) -> object:
        times = level * generator.normal(1, 0.01, (8, 32))
        low, high = level * 0.998, level * 1.002
        return document(row(times, valid=valid, median_ms=level, median_low_ms=low, median_high_ms=high))

    (near,), (far,), (doubtful,) = (paired(run(1.0), run(level, level < 1.2)) for level in (1.03, 1.15, 1.3))
    assert (near.agree, near.overlap, far.agree) == (True, False, False)
    assert doubtful.valid == (True, False)
    lines = table([near, far, doubtful]).splitlines()
    assert lines[1].split()[2:6] == ["valid", "2", "1", "0"]
    assert lines[2].split()[2:6] == ["others", "1", "0", "0"]
