"""Every doubt that makes a figure not valid."""

from pathlib import Path

import pytest
from bench_fakes import made_up_measurement, open_fakes, plan_of  # noqa: F401

from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.measure.samples import Interference
from mobileloop_bench.measure.summary import make_document
from mobileloop_bench.results.validity import Code, code_of

STEADY = [10.0] * 20
SLOWING = [10.0] * 12 + [12.5] * 8


WIDE = "interval too wide: the median is known to ±12%, beyond ±5%"
SLOWED = "slowed down: the last round took 1.25 times the first"


@pytest.mark.parametrize(
    ("decode_ms", "mhz", "celsius", "reasons", "notes"),
    [
        (STEADY, [], [], [], []),
        (STEADY, [None] * 5, [None] * 5, [], []),
        (STEADY, [2000.0, 2050.0, 2000.0], [40.0, 70.0], [], []),  # warmer, and not slower
        # The clock changed and the times did not: they do not depend on it.
        (STEADY, [2800.0, 2000.0, 1800.0], [], [], ["throttled: the clock fell from 2800 to 1800 MHz"]),
        (STEADY, [1800.0, 2000.0, 2800.0], [], [], ["clock changed: from 1800 to 2800 MHz between rounds"]),
        (SLOWING, [], [], [WIDE, SLOWED], []),
        (SLOWING, [2800.0, 1800.0], [], [WIDE, "throttled: the clock fell from 2800 to 1800 MHz", SLOWED], []),
        (
            SLOWING,
            [],
            [40.0, None, 65.0],
            [WIDE, "throttled: 1.25 times slower at the end, 25 degrees warmer", SLOWED],
            [],
        ),
    ],
)
def test_clocks(
    decode_ms: list[float],
    mhz: list[float | None],
    celsius: list[float | None],
    reasons: list[str],
    notes: list[str],
    fake_artifact: Path,
) -> None:
    measurement = made_up_measurement(plan_of(fake_artifact, threads=[1], loops=[1]))
    (samples,) = measurement.samples
    samples.decode_ms, samples.mhz, samples.celsius = decode_ms, mhz, celsius
    row = make_document(measurement, Machine(), [], {}, None).results[-1]
    assert (row.reasons, row.notes, row.valid) == (reasons, notes, not reasons)


def test_the_figure_rests_on_the_interval_of_its_median(fake_artifact: Path) -> None:
    """Every other token takes twice as long, in every round alike: the spread is wide and the median well known."""
    measurement = made_up_measurement(plan_of(fake_artifact, threads=[1], loops=[1], repetitions=20))
    (samples,) = measurement.samples
    samples.decode_ms = [10.0, 10.1, 10.2, 20.0] * 20
    row = make_document(measurement, Machine(), [], {}, None).results[-1]
    assert (row.valid, row.notes) == (True, ["wide spread: p90 is 2.00 times p10"])
    assert row.median_low_ms == row.median_high_ms == row.median_ms == pytest.approx(10.15)
    samples.decode_ms = [10.0] * 40 + [12.0] * 4 + [10.0] * 36  # one slow round of twenty is no trend
    assert make_document(measurement, Machine(), [], {}, None).results[-1].valid


def test_a_slow_end_is_a_trend_of_several_rounds(fake_artifact: Path) -> None:
    measurement = made_up_measurement(plan_of(fake_artifact, threads=[1], loops=[1], repetitions=20))
    (samples,) = measurement.samples
    samples.decode_ms = [10.0] * 76 + [20.0] * 4
    assert make_document(measurement, Machine(), [], {}, None).results[-1].valid
    samples.decode_ms = [10.0] * 60 + [13.0] * 20
    row = make_document(measurement, Machine(), [], {}, None).results[-1]
    assert row.reasons == ["slowed down: the last 5 rounds took 1.30 times the first"]


def test_other_programs_count_where_they_and_ours_want_more_cores_than_there_are(fake_artifact: Path) -> None:
    measurement = made_up_measurement(plan_of(fake_artifact, threads=[1, 2], loops=[1]))
    for samples in measurement.samples:
        samples.interference = Interference(wall_s=1, other_s=1.0)
    rows = make_document(measurement, Machine(cores_usable=2), [], {}, None).results
    alone, crowded = (row for row in rows if row.phase == "decode")
    said = ["not alone: other programs used 1.00 cores"]
    assert (alone.reasons, alone.notes, crowded.reasons, crowded.notes) == ([], said, said, [])


def test_every_sentence_has_a_code() -> None:
    for code in Code:
        assert code_of(code.said("figures")) is code is code_of(code.said())
    for sentence, code in (
        ("2 threads on 1 core", Code.BEYOND_CORES),
        ("spread too wide: p90 is 2.00 times p10, beyond 1.5", Code.WIDE_SPREAD),
        ("spread: p90 is 2.00 times p10, beyond 1.5", Code.WIDE_SPREAD),
        ("fewer than 5 repetitions: 2", Code.FEW_ROUNDS),
        ("from a later version: 1", None),
    ):
        assert code_of(sentence) is code


def test_threads_that_had_to_leave_their_core(fake_artifact: Path) -> None:
    measurement = made_up_measurement(plan_of(fake_artifact, threads=[2], loops=[1]))
    (samples,) = measurement.samples
    for switches, said in (
        (99, []),
        (None, []),
        (300, ["preempted: each thread had to leave its core 150 times a second"]),
    ):
        samples.interference = Interference(wall_s=1, switches=switches)
        assert make_document(measurement, Machine(), [], {}, None).results[-1].reasons == said
