"""Going on with a run whose result file says that it was interrupted: its whole rounds count, and no more are run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobileloop.errors import MobileloopError
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.measure.plan import Configuration, Plan
from mobileloop_bench.measure.samples import Interference, Measurement, Samples
from mobileloop_bench.results.document import Document
from mobileloop_bench.results.result import LOADING, Phase, Result
from mobileloop_bench.results.settings import Settings

NOT_COMPARED = ("repetitions", "ended", "sessions_kept", "time_budget_s")
FAILED = "failed: "


@dataclass(frozen=True)
class Earlier:
    """What an interrupted run left.

    Attributes:
        rounds: whole ones.
        rows: of each configuration of the plan, by phase.
    """

    rounds: int
    rows: Sequence[dict[Phase, Result]]

    def rest(self, plan: Plan) -> Plan:
        """The plan with the rounds that are missing."""
        update = {"repetitions": plan.settings.repetitions - self.rounds}
        return dataclasses.replace(plan, settings=plan.settings.model_copy(update=update))

    def joined(self, measurement: Measurement, plan: Plan) -> Measurement:
        """The measurement of the rest with the earlier samples before its own, as one of the whole plan."""
        samples = [self._joined(rows, after) for rows, after in zip(self.rows, measurement.samples, strict=True)]
        return dataclasses.replace(measurement, plan=plan, samples=samples)

    def _joined(self, rows: dict[Phase, Result], after: Samples) -> Samples:
        before: dict[str, Any] = {f"{phase}_ms": _whole(row, self.rounds) for phase, row in rows.items()}
        told = next((row.speeds for phase, row in rows.items() if phase not in LOADING), [])
        before["speeds"] = [*told[: self.rounds], *[None] * (self.rounds - len(told))]
        interference = dataclasses.replace(after.interference)
        _add(interference, rows)
        failed = [reason for row in rows.values() for reason in row.reasons if reason.startswith(FAILED)]
        if failed:  # its further turns would have no round to be paired with
            return dataclasses.replace(after, **before, failure=failed[0].removeprefix(FAILED))
        both: dict[str, Any] = {name: [*times, *getattr(after, name)] for name, times in before.items()}
        return dataclasses.replace(after, **both, interference=interference)


def earlier(path: Path | None, plan: Plan, machine: Machine, recipe: str) -> Earlier | None:
    """What an interrupted run of the same plan left in a result file; a finished one is kept as NAME.previous.json.

    Raises:
        MobileloopError: where the file holds another run's rounds.
    """
    if path is None or not path.exists():
        return None
    found = Document.read(path)
    if found.recipe == recipe and not found.interrupted:
        path.replace(path.with_name(f"{path.stem}.previous{path.suffix}"))
        return None
    changed = list(_changes(found, plan, machine, recipe))
    if changed:
        raise MobileloopError(
            f"{path} holds a run with other {' and '.join(changed)}, which cannot be continued; delete it, or choose "
            "another --json."
        )
    rows = _by_configuration(found.results, plan.configurations)
    counts = [len(row.samples_ms) // (row.samples_per_round or 1) for row in _turns(rows) if not _failed(row)]
    rounds = min(counts, default=0)
    if rounds >= plan.settings.repetitions:
        rounds = plan.settings.repetitions - 1  # the memory pass is still to come, and needs a round before it
    return Earlier(rounds, rows) if rounds > 0 else None


def _changes(found: Document, plan: Plan, machine: Machine, recipe: str) -> Iterator[str]:
    if found.recipe != recipe:
        yield "contents"
        return
    if _compared(found.settings) != _compared(plan.settings):
        yield "settings"
    if (found.machine.cpu, found.machine.git_commit) != (machine.cpu, machine.git_commit):
        yield "machine or commit"
    if found.results and not _same_configurations(found.results, plan):
        yield "configurations or versions"


def _compared(settings: Settings | None) -> dict[str, Any] | None:
    return None if settings is None else settings.model_dump(exclude=set(NOT_COMPARED))


def _same_configurations(results: Sequence[Result], plan: Plan) -> bool:
    """Results are in the order of the plan, what was skipped last."""
    places = [(one, phase) for one in plan.configurations for phase in one.phases]
    return len(results) == len(places) + len(plan.skipped) and all(
        _same(row, *place) for row, place in zip(results, places, strict=False)
    )


def _same(row: Result, one: Configuration, phase: Phase) -> bool:
    peer = (row.peer.name, row.peer.version, row.peer.flags) if row.peer else None
    wanted = (one.peer, one.entry.version, one.entry.flags) if one.peer and one.entry else None
    swept = (row.artifact, row.phase, row.loops, row.threads, row.depth, row.sequences, row.busy)
    return (*swept, row.source_sha256, peer) == (
        *(one.label, phase, one.loops, one.threads, one.depth, one.sequences, one.busy),
        *(one.artifact.info.source_sha256, wanted),
    )


def _by_configuration(results: Sequence[Result], configurations: Sequence[Configuration]) -> list[dict[Phase, Result]]:
    rows = iter(results)
    return [dict(zip(one.phases, rows, strict=False)) for one in configurations]


def _turns(rows: Sequence[dict[Phase, Result]]) -> list[Result]:
    return [row for phases in rows for row in phases.values()]


def _failed(row: Result) -> bool:
    return row.skipped or any(reason.startswith(FAILED) for reason in row.reasons)


def _whole(row: Result, rounds: int) -> list[float]:
    return row.samples_ms[: rounds * (row.samples_per_round or 1)]


def _add(interference: Interference, rows: dict[Phase, Result]) -> None:
    """Other programs beside the earlier turns: known as cores, over the time that the samples took."""
    turns = [row for phase, row in rows.items() if phase not in LOADING]
    wall_s = sum(sum(row.samples_ms) for row in turns) / 1000
    for row in turns[:1]:
        if row.other_cores is None or row.stolen_cores is None:
            interference.known = False
            return
        if interference.switches is not None and interference.wall_s:  # of the later turns alone: taken for all
            interference.switches = round(interference.switches * (1 + wall_s / interference.wall_s))
        interference.other_s += row.other_cores * wall_s
        interference.stolen_s += row.stolen_cores * wall_s
        interference.wall_s += wall_s
