"""Every doubt that makes a figure not valid."""

import json
from pathlib import Path

import pytest
from bench_fakes import made_up_document, made_up_measurement, open_fakes, plan_of  # noqa: F401

from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.measure.samples import Interference
from mobileloop_bench.measure.summary import make_document
from mobileloop_bench.results.document import Document
from mobileloop_bench.results.speed import Speed
from mobileloop_bench.results.validity import Code, code_of

STEADY = [10.0] * 20
SLOWING = [10.0] * 12 + [12.5] * 8


WIDE = "interval too wide: the median is known to ±12%, beyond ±10%"
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


def test_other_programs_count_where_they_reached_the_median_of_who_had_to_share(fake_artifact: Path) -> None:
    """One or two threads on two cores, of which others want one; each sample takes 10 or 5 ms."""
    measurement = made_up_measurement(plan_of(fake_artifact, threads=[1, 2], loops=[1]))
    said = ["not alone: other programs used 1.00 cores"]
    for switches, crowded in (
        (40, ([], said)),  # a fifth of the tokens were interrupted: the median is of the others
        (90, (said, [])),
        (None, (said, [])),  # nobody counts
    ):
        for samples in measurement.samples:
            samples.interference = Interference(wall_s=1, other_s=1.0, switches=switches)
        rows = make_document(measurement, Machine(cores_usable=2), [], {}, None).results
        found = [(row.reasons, row.notes) for row in rows if row.phase == "decode"]
        told = "preempted: each thread had to leave its core 90 times a second"
        assert found == [([told], said) if switches == 90 else ([], said), crowded]


def test_late_threads_part_the_median_from_the_fast_samples(fake_artifact: Path) -> None:
    measurement = made_up_measurement(plan_of(fake_artifact, threads=[2], loops=[1]))
    (samples,) = measurement.samples
    samples.interference = Interference(wall_s=1, other_s=1.0)
    samples.decode_ms = [5.0, 7.0, 7.0, 7.0] * 5
    row = make_document(measurement, Machine(cores_usable=2), [], {}, None).results[-1]
    assert row.reasons == ["not alone: other programs used 1.00 cores"]


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


def speeds(*steps: float) -> list[Speed | None]:
    return [Speed(step_ns=step, read_gbps=10) for step in steps]


def test_a_shared_core_is_named_though_no_counter_shows_it(fake_artifact: Path) -> None:
    measurement = made_up_measurement(plan_of(fake_artifact, threads=[1, 2], loops=[1]))
    one, two = measurement.samples
    rows = {}
    for steps in ((2, 2.1, 2, 2, 2.2), (2, 2, 2, 3, 3), (2, 3, 3, 3.2, 3)):
        one.speeds, two.speeds = speeds(*steps), speeds(9, 9, 9, 9, 9)  # two threads have their own shortest step
        found = make_document(measurement, Machine(cores_usable=2), [], {}, None).results
        rows[steps] = [(row.valid, row.reasons, row.notes) for row in found if row.phase == "decode"]
    calm, some, most = rows.values()
    assert calm == [(True, [], [])] * 2
    assert some == [(True, [], ["core shared: arithmetic took longer in 2 of 5 rounds"]), (True, [], [])]
    assert most == [(False, ["core shared: arithmetic took 1.50 times its shortest in this run"], []), (True, [], [])]
    loading = make_document(measurement, Machine(), [], {}, None).results[0]
    assert (loading.phase, loading.speeds, loading.valid) == ("load", [], True)


def test_the_loop_tax_is_of_rounds_in_which_the_cores_were_alike(fake_artifact: Path) -> None:
    """The core was shared in two of the eight rounds of one loop: there the second loop seems to be free."""
    measurement = made_up_measurement(plan_of(fake_artifact, threads=[1], loops=[1, 2], repetitions=8))
    once, twice = measurement.samples
    once.decode_ms = [18.0] * 12 + [10.0] * 20
    twice.decode_ms = [18.0] * 32
    once.speeds, twice.speeds = speeds(4, 4, 4, 2, 2, 2, 2, 2), speeds(*[2] * 8)
    row = make_document(measurement, Machine(), [], {}, None).results[-1]
    assert (row.loop_tax, row.notes) == (1.8, [])
    once.speeds = speeds(4, 4, 4, 4, 2, 2, 2, 2)
    row = make_document(measurement, Machine(), [], {}, None).results[-1]
    assert row.notes == [
        "unlike rounds: in 4 of 8 rounds the cores were as fast with 1 loop; the loop tax is of all rounds"
    ]


def test_a_quota_of_a_container_is_a_doubt_where_threads_want_more(fake_artifact: Path) -> None:
    rows = made_up_document(plan_of(fake_artifact, loops=[1]), Machine(cores_usable=4, cpu_quota=1.5)).results
    said = "cpu quota: 2 threads where the container may use 1.5 cores of time"
    assert {(row.threads, tuple(row.reasons)) for row in rows} == {(1, ()), (2, (said,))}


def test_samples_without_a_verdict_are_judged_where_they_are_read(fake_artifact: Path) -> None:
    """As the standalone program writes them."""
    document = made_up_document(plan_of(fake_artifact))
    data = json.loads(document.to_json())
    for row in data["results"]:
        row |= {"valid": None, "reasons": [], "median_low_ms": None, "median_high_ms": None}
    assert Document.model_validate(data).results == document.results
    data["machine"]["emulated"] = True
    assert not any(row.valid for row in Document.model_validate(data).results)
