"""Whether a figure is to be trusted: every doubt is a reason, `name: figures`, and a result with one is not valid."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.measure.samples import Measurement, Samples
from mobileloop_bench.results.result import Result
from mobileloop_bench.writing.units import counted

MIN_REPETITIONS = 5  # as few as llama-bench runs; below, a median says little about the spread
MAX_SPREAD = 1.5  # p90 / p10
MAX_DRIFT = 1.2  # last repetition's median over the first one's: a throttled or heated core
MIN_WARMING_CELSIUS = 10.0  # between first and last repetition, for a slow-down to be called throttling
MAX_CLOCK_CHANGE = 1.1  # highest over lowest frequency between repetitions
MAX_OTHER_CORES = 0.25
MAX_STOLEN_CORES = 0.05
MAX_SWITCHES_PER_S = 50.0  # of each thread: two programs that share a core are switched 100 times and more


def reasons(row: Result, samples: Samples, measurement: Measurement, machine: Machine) -> list[str]:
    """Why a figure is not valid; one short phrase each."""
    settings = measurement.plan.settings
    found = []
    if measurement.interrupted:
        found.append("interrupted")
    if samples.failure is not None:
        found.append(f"failed: {samples.failure}")
    if machine.emulated:
        found.append("emulated: the machine's instructions are simulated")
    if (row.repetitions or 0) < MIN_REPETITIONS:
        found.append(f"too few samples: of {counted(row.repetitions or 0, 'round')}, at least {MIN_REPETITIONS} needed")
    if row.p10_ms and row.p90_ms and row.p90_ms > MAX_SPREAD * row.p10_ms:
        found.append(f"spread too wide: p90 is {row.p90_ms / row.p10_ms:.2f} times p10, beyond {MAX_SPREAD}")
    cores = machine.cores_usable if settings.cpus is None else len(settings.cpus)
    if cores and row.threads > cores:
        found.append(f"{row.threads} threads on {counted(cores, 'core')}")
    if row.phase in ("prefill", "decode"):
        found += _preemption(row, samples)
        drift = _drift(samples.decode_ms, row.samples_per_round or 1) if row.phase == "decode" else None
        found += _clocks(samples, drift)
    return found


def _preemption(row: Result, samples: Samples) -> Iterator[str]:
    if row.stolen_cores is not None and row.stolen_cores > MAX_STOLEN_CORES:
        yield f"preempted: the hypervisor took {row.stolen_cores:.2f} cores"
    switches = samples.interference.switches_per_s()
    if switches is not None and switches > MAX_SWITCHES_PER_S * row.threads:
        yield f"preempted: each thread had to leave its core {switches / row.threads:.0f} times a second"
    if row.other_cores is not None and row.other_cores > MAX_OTHER_CORES:
        yield f"not alone: other programs used {row.other_cores:.2f} cores"


def _clocks(samples: Samples, drift: float | None) -> Iterator[str]:
    """Throttled where the slow-down has a cause that the machine shows; else what is known is said."""
    mhz, celsius = _known(samples.mhz), _known(samples.celsius)
    slower = bool(drift and drift > MAX_DRIFT)
    warming = celsius[-1] - celsius[0] if len(celsius) > 1 else 0.0
    fell = len(mhz) > 1 and mhz[0] > MAX_CLOCK_CHANGE * mhz[-1]
    if fell:
        yield f"throttled: the clock fell from {mhz[0]:.0f} to {mhz[-1]:.0f} MHz"
    elif slower and warming >= MIN_WARMING_CELSIUS:
        yield f"throttled: {drift:.2f} times slower at the end, {warming:.0f} degrees warmer"
    elif mhz and max(mhz) > MAX_CLOCK_CHANGE * min(mhz):
        yield f"clock changed: from {min(mhz):.0f} to {max(mhz):.0f} MHz between rounds"
    if slower:
        yield f"slowed down: the last repetition took {drift:.2f} times the first"


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _drift(samples_ms: list[float], per_repetition: int) -> float | None:
    if len(samples_ms) < 2 * per_repetition:
        return None
    whole = len(samples_ms) // per_repetition * per_repetition
    first = statistics.median(samples_ms[:per_repetition])
    last = statistics.median(samples_ms[whole - per_repetition : whole])
    return last / first if first else None
