"""The rounds of `mobileloop bench`: every configuration of a plan takes its turns, and every raw sample is kept."""

from __future__ import annotations

import gc
from collections.abc import Callable

import psutil

from mobileloop_bench.measure.plan import Configuration, Plan
from mobileloop_bench.measure.probes import Probes
from mobileloop_bench.measure.process_runner import ProcessRunner
from mobileloop_bench.measure.samples import Measurement, Runner
from mobileloop_bench.measure.session_runner import SessionRunner
from mobileloop_bench.measure.turns import Progress, Rounds, Turn
from mobileloop_bench.results.bootstrap import stable
from mobileloop_bench.results.settings import Settings

WORDS = {"evaluate": "prefill and decode", "load": "load"}  # the kinds of turns


def measure(
    plan: Plan,
    progress: Progress = lambda done, total, what: None,
    checkpoint: Callable[[Measurement], None] = lambda measurement: None,
    probes: Probes | None = None,
) -> Measurement:
    """Run the plan. Ctrl-C ends it early and keeps what was measured.

    Args:
        plan: what to run.
        progress: called between turns, never inside one.
        checkpoint: called behind every turn with what there is so far.
        probes: made before anything else where the caller can; hardware events miss threads that are older.
    """
    probes = probes or Probes()
    settings = plan.settings
    runners = [_runner(one, settings, probes) for one in plan.configurations]
    measurement = Measurement(plan, [runner.samples for runner in runners], _fits_memory(plan), series=probes.series)

    def take(turn: Turn) -> None:
        runner = runners[turn.contestant]
        if turn.kind == "evaluate":
            runner.evaluate()
        else:
            runner.load()
        if not measurement.sessions_kept:
            runner.close()
        probes.note()
        checkpoint(measurement)

    def all_stable() -> bool:
        """Of all that still run."""
        going = [samples for samples in measurement.samples if samples.failure is None]
        return all(stable(one.decode_ms, one.configuration.decode_samples(settings)) for one in going)

    gc.collect()
    gc.freeze()  # what is here already stays; the collection before each timed block then takes no time worth the name
    rounds = Rounds(len(runners), settings, {"evaluate": None, "load": settings.repetitions})
    try:
        ended = rounds.run(
            take,
            lambda turn: f"{WORDS[turn.kind]}: {plan.configurations[turn.contestant]}",
            stable=all_stable,
            progress=progress,
            clock=lambda: probes.seconds,
            idle=probes.note,
        )
        measurement.interrupted, measurement.ended = ended.interrupted, ended.reason
    finally:
        for runner in runners:
            runner.close()
        probes.speed.close()
        gc.unfreeze()
    return measurement


def _runner(one: Configuration, settings: Settings, probes: Probes) -> Runner:
    return SessionRunner(one, settings, probes) if one.peer is None else ProcessRunner(one, settings, probes)


def _fits_memory(plan: Plan) -> bool:
    """Whether all sessions at once take under half of the free memory, each with a copy of its weights.

    A peer's process is gone after its turn.
    """
    needed = 0
    for one in plan.configurations:
        if one.peer is not None:
            continue
        info = one.artifact.info
        needed += 2 * info.costs.weight_bytes + one.sequences * info.kv_capacity_bytes()
    return needed < int(psutil.virtual_memory().available) // 2
