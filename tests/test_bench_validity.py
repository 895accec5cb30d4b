"""Every doubt that makes a figure not valid."""

from pathlib import Path

import pytest
from bench_fakes import made_up_measurement, open_fakes, plan_of  # noqa: F401

from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.measure.samples import Interference
from mobileloop_bench.measure.summary import make_document

STEADY = [10.0] * 20
SLOWING = [10.0] * 12 + [12.5] * 8


@pytest.mark.parametrize(
    ("decode_ms", "mhz", "celsius", "said"),
    [
        (STEADY, [], [], []),
        (STEADY, [None] * 5, [None] * 5, []),
        (STEADY, [2000.0, 2050.0, 2000.0], [40.0, 70.0], []),  # warmer, and not slower
        (STEADY, [2800.0, 2000.0, 1800.0], [], ["throttled: the clock fell from 2800 to 1800 MHz"]),
        (STEADY, [1800.0, 2000.0, 2800.0], [], ["clock changed: from 1800 to 2800 MHz between rounds"]),
        (SLOWING, [], [], ["slowed down: the last repetition took 1.25 times the first"]),
        (
            SLOWING,
            [],
            [40.0, None, 65.0],
            [
                "throttled: 1.25 times slower at the end, 25 degrees warmer",
                "slowed down: the last repetition took 1.25 times the first",
            ],
        ),
    ],
)
def test_clocks(
    decode_ms: list[float],
    mhz: list[float | None],
    celsius: list[float | None],
    said: list[str],
    fake_artifact: Path,
) -> None:
    measurement = made_up_measurement(plan_of(fake_artifact, threads=[1], loops=[1]))
    (samples,) = measurement.samples
    samples.decode_ms, samples.mhz, samples.celsius = decode_ms, mhz, celsius
    assert make_document(measurement, Machine(), [], {}, None).results[-1].reasons == said


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
