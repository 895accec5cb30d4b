"""Interleaved rounds: every configuration once per round, in an order that rotates, every raw sample kept.

Neighbours on a shared machine, heat and frequency change over minutes. Measuring one configuration after the
other would turn such a change into a difference between configurations; a round of all of them does not, and
rotating the order gives each of them every place in the round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import psutil

from mobileloop_bench.measure.plan import Configuration, Plan
from mobileloop_bench.measure.probes import Probes
from mobileloop_bench.measure.process_runner import ProcessRunner
from mobileloop_bench.measure.samples import Measurement, Runner
from mobileloop_bench.measure.session_runner import SessionRunner
from mobileloop_bench.results.bootstrap import LEAST_ROUNDS, stable
from mobileloop_bench.results.settings import Settings
from mobileloop_bench.writing.units import counted

Progress = Callable[[int, int, str], None]

MAX_ROUNDS = 1000  # of a time budget
PATIENCE = 20  # times the repetitions, where --until-stable has no time budget
ROUNDS_SHARE = 0.8  # of a time budget; what is left goes to the memory pass


def rotated(count: int, turn: int) -> list[int]:
    """0 .. count-1, started one place further every turn."""
    start = turn % count
    return [*range(start, count), *range(start)]


def measure(
    plan: Plan,
    progress: Progress = lambda done, total, what: None,
    checkpoint: Callable[[Measurement], None] = lambda measurement: None,
    probes: Probes | None = None,
) -> Measurement:
    """Run the plan. Ctrl-C ends it early and keeps what was measured.

    Args:
        plan: what to run.
        progress: called between turns, never inside one, with (done, total, what comes next).
        checkpoint: called behind every turn with what there is so far.
        probes: made before anything else where the caller can; hardware events miss threads that are older.
    """
    probes = probes or Probes()
    runners = [_runner(one, plan.settings, probes) for one in plan.configurations]
    measurement = Measurement(plan, [runner.samples for runner in runners], _fits_memory(plan), series=probes.series)
    rounds = _Rounds(runners, measurement, probes, progress, checkpoint)
    try:
        measurement.ended = rounds.run()
    except KeyboardInterrupt:
        measurement.interrupted, measurement.ended = True, "interrupted"
    finally:
        for runner in runners:
            runner.close()
    return measurement


def _runner(one: Configuration, settings: Settings, probes: Probes) -> Runner:
    return SessionRunner(one, settings, probes) if one.peer is None else ProcessRunner(one, settings, probes)


class _Rounds:
    """Turns of all runners, until the settings say that it is enough."""

    def __init__(
        self,
        runners: Sequence[Runner],
        measurement: Measurement,
        probes: Probes,
        progress: Progress,
        checkpoint: Callable[[Measurement], None],
    ) -> None:
        self._runners, self._measurement, self._probes = runners, measurement, probes
        self._progress, self._checkpoint = progress, checkpoint
        self._settings = measurement.plan.settings
        self._bound = _bound(self._settings)
        self._took: dict[tuple[int, str], float] = {}  # the last turn of a runner, in seconds
        self._done = 0

    def run(self) -> str:
        """All rounds; says why there are no more."""
        settings = self._settings
        for number in range(self._bound):
            if number:
                self._cool_down(number)
            for phase in ("evaluate", "load") if number < settings.repetitions else ("evaluate",):
                for index in rotated(len(self._runners), number):
                    if not self._turn(index, phase, number):
                        budget = f"the time budget of {settings.time_budget_s:g} s was over"
                        return f"{budget} after {counted(number, 'whole round')}"
            if settings.until_stable and number + 1 >= settings.repetitions and self._stable():
                return f"stable after {counted(number + 1, 'round')}"
        not_stable = ", not stable yet" if settings.until_stable else ""
        return counted(self._bound, "round") + not_stable

    def _turn(self, index: int, phase: str, number: int) -> bool:
        """One turn, unless the time budget is over before it would end; whether it ran."""
        started = self._probes.seconds
        left = self._left(started)
        if left is not None and left <= self._took.get((index, phase), 0.0):
            return False
        runner = self._runners[index]
        what = {"evaluate": "prefill and decode", "load": "load"}[phase]
        self._progress(self._done, self._total(number), f"{what}: {runner.samples.configuration}")
        if phase == "evaluate":
            runner.evaluate()
        else:
            runner.load()
        if not self._measurement.sessions_kept:
            runner.close()
        self._took[index, phase] = self._probes.seconds - started
        self._done += 1
        self._probes.note()
        self._checkpoint(self._measurement)
        return True

    def _left(self, now_s: float) -> float | None:
        budget = self._settings.time_budget_s
        return None if budget is None else ROUNDS_SHARE * budget - now_s

    def _total(self, number: int) -> int:
        """Turns of all rounds; where their number is open, of those up to this one's end."""
        rounds = self._bound if self._bound == self._settings.repetitions else number + 1
        return len(self._runners) * (rounds + min(rounds, self._settings.repetitions))

    def _cool_down(self, number: int) -> None:
        """The pause between rounds, in pieces: clocks and temperatures are noted meanwhile."""
        end = self._probes.seconds + self._settings.cooldown_s
        while (pause := end - self._probes.seconds) > 0:
            left = self._left(self._probes.seconds)
            if left is not None and left <= 0:
                return
            self._progress(self._done, self._total(number), f"cooling down, {pause:.0f} s")
            time.sleep(min(1.0, pause))
            self._probes.note()

    def _stable(self) -> bool:
        """Of all that still run."""
        going = [runner.samples for runner in self._runners if runner.samples.failure is None]
        return all(stable(one.decode_ms, one.configuration.decode_samples(self._settings)) for one in going)


def _bound(settings: Settings) -> int:
    """The most rounds."""
    if settings.time_budget_s is not None:
        return MAX_ROUNDS
    return PATIENCE * max(settings.repetitions, LEAST_ROUNDS) if settings.until_stable else settings.repetitions


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
