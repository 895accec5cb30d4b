"""What fits a time per token on a machine: every choice of loops, threads and quantization, predicted, not measured."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from mobileloop.artifact import ArtifactInfo, Costs
from mobileloop.errors import MobileloopError
from mobileloop.families.registry import preset
from mobileloop.packed import shape_costs
from mobileloop.spec.costs import TokenBytes
from mobileloop.spec.schedule import Schedule
from mobileloop_bench.machine.file import MachineFile
from mobileloop_bench.results.prediction import Prediction
from mobileloop_bench.timemodel.levels import Unknown, UnknownError
from mobileloop_bench.timemodel.predict import Workload, predict

KV_BITS = 16
SAME = 1e-3  # times closer than that are one
_TAKEN: tuple[Unknown, Unknown] = ("fast", "slow")
_BUDGET = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(ms|s|tok/s)")
MOST_MS = 1e9


class Choice(BaseModel):
    """One way to run the model on the machine.

    Attributes:
        applications: of blocks per token: how deep the model is.
        resident: the level that repeats are read from; several where stages differ, null where nothing is repeated.
        ms: predicted time of a token; null where `missing` names what the machine file lacks for it.
        at_least_ms, at_most_ms: where only the rate of a cache is missing: with one that costs no time, and with one as
            slow as DRAM.
        fits: whether it is within the budget; null where that depends on what is missing.
        refused: why the artifact cannot run so; null where it can.
    """

    model_config = ConfigDict(extra="allow")

    quantization: str
    threads: int
    loops: int
    applications: int = 0
    unique_bytes: int = 0
    executed_bytes: int = 0
    resident: str | None = None
    ms: FiniteFloat | None = None
    tokens_per_s: FiniteFloat | None = None
    at_least_ms: FiniteFloat | None = None
    at_most_ms: FiniteFloat | None = None
    fits: bool | None = None
    missing: str | None = None
    refused: str | None = None
    prediction: Prediction | None = None


class BudgetPlan(BaseModel):
    """Every choice, and the deepest that surely keeps the budget; where two are as deep, the faster one.

    Attributes:
        published: the machine's figures are published ones, each with its source, and were not measured by us.
        estimated: the engine's costs on the machine were derived, not measured there.
    """

    model_config = ConfigDict(extra="allow")

    model: str
    machine: str
    budget_ms: FiniteFloat = Field(gt=0)
    context_depth: int
    published: bool
    estimated: bool
    choices: list[Choice]
    deepest: Choice | None = None
    notes: list[str] = []


@dataclass(frozen=True)
class Option:
    """A loop count with its workload; `refused` says why it cannot run."""

    loops: int
    quantization: str
    workload: Workload | None
    refused: str | None = None


def parse_budget(text: str) -> float:
    """`15ms`, `0.02s` or `60tok/s` as ms per token.

    Raises:
        MobileloopError: for anything else, or nothing at all.
    """
    match = _BUDGET.fullmatch(text.strip())
    value = float(match[1]) if match else 0.0
    ms = {"ms": value, "s": 1e3 * value, "tok/s": 1e3 / value}[match[2]] if match and value > 0 else 0.0
    if not 0 < ms <= MOST_MS:
        raise MobileloopError(f"the budget '{text}' is not a time per token; write for example 15ms, 0.02s or 60tok/s.")
    return ms


def preset_options(name: str, loops: Sequence[int], quantizations: Sequence[str]) -> list[Option]:
    """A preset with every block so often in a row; its bytes come from its shapes, no weights are made.

    Raises:
        MobileloopError: for a quantization that does not exist or does not go with the shapes.
    """
    config, _ = preset(name)
    options = []
    for quantization in quantizations:
        costs = Costs.model_validate(shape_costs(config, quantization))
        for count in loops:
            schedule = Schedule.immediate(config.num_blocks, count)
            parts = (costs.block_bytes, costs.head_bytes, costs.embedding_row_bytes)
            workload = Workload(TokenBytes(config, schedule, *parts, KV_BITS), quantization)
            options.append(Option(count, quantization, workload))
    return options


def artifact_options(info: ArtifactInfo, loops: Sequence[int] | None) -> list[Option]:
    """An artifact with the loop counts it allows; its own count where none are asked for."""
    options = []
    for count in loops or [info.schedule.default_loops]:
        try:
            info.schedule.check_loops(count)
        except MobileloopError as error:
            options.append(Option(count, info.quantization, None, str(error).rstrip(".")))
        else:
            options.append(Option(count, info.quantization, Workload.of(info)))
    return options


def thread_counts(machine: MachineFile) -> list[int]:
    """Counts whose DRAM bandwidth the machine file knows; else as many as its big cores, or 1."""
    steps = machine.ladder.steps if machine.ladder else []
    known = sorted({step.threads for step in steps if step.up_to_bytes is None and step.cluster is None})
    big = sum(len(cluster.cpus) for cluster in machine.machine.clusters if cluster.big)
    return known or [big or 1]


def make_budget_plan(
    name: str, options: Sequence[Option], machine: MachineFile, budget_ms: float, threads: Sequence[int], depth: int
) -> BudgetPlan:
    """Predict every option with every thread count."""
    choices = [_choice(option, machine, budget_ms, count, depth) for option in options for count in threads]
    fitting = [choice for choice in choices if choice.fits]
    notes = dict.fromkeys(note for choice in choices if choice.prediction for note in choice.prediction.notes)
    return BudgetPlan(
        model=name,
        machine=machine.name,
        budget_ms=budget_ms,
        context_depth=depth,
        published=bool(machine.sources),
        estimated=machine.costs is not None and machine.costs.estimated,
        choices=choices,
        deepest=max(fitting, key=lambda one: (one.applications, -_longest(one)), default=None),
        notes=list(notes),
    )


def _choice(option: Option, machine: MachineFile, budget_ms: float, threads: int, depth: int) -> Choice:
    choice = Choice(quantization=option.quantization, threads=threads, loops=option.loops, refused=option.refused)
    if option.workload is None:
        return choice.model_copy(update={"fits": False})
    token = option.workload.token_bytes
    facts = {
        "applications": sum(1 for _ in token.schedule.applications(option.loops)),
        "unique_bytes": token.unique(),
        "executed_bytes": token.executed(option.loops),
    }
    choice = choice.model_copy(update=facts)
    try:
        return _known(choice, predict(option.workload, machine, threads, option.loops, depth), budget_ms)
    except UnknownError as error:
        return _bounded(choice.model_copy(update={"missing": str(error)}), option.workload, machine, budget_ms, depth)


def _known(choice: Choice, known: Prediction, budget_ms: float) -> Choice:
    told = {"ms": known.ms, "tokens_per_s": 1e3 / known.ms, "fits": known.ms <= budget_ms, "prediction": known}
    return choice.model_copy(update={**told, "resident": _resident(known), "missing": None})


def _bounded(choice: Choice, workload: Workload, machine: MachineFile, budget_ms: float, depth: int) -> Choice:
    """What holds whatever the unknown cache does; the choice as it is where more than that is missing."""
    try:
        fast, slow = (predict(workload, machine, choice.threads, choice.loops, depth, unknown=t) for t in _TAKEN)
    except UnknownError:
        return choice
    if math.isclose(fast.ms, slow.ms, rel_tol=SAME):
        return _known(choice, slow, budget_ms)  # arithmetic decides, whatever the cache does
    fits = True if slow.ms <= budget_ms else False if fast.ms > budget_ms else None
    told = {"at_least_ms": fast.ms, "at_most_ms": slow.ms, "fits": fits, "prediction": slow}
    return choice.model_copy(update={**told, "resident": _resident(slow)})


def _resident(prediction: Prediction) -> str | None:
    levels = dict.fromkeys(stage.resident for stage in prediction.stages if stage.resident)
    return ", ".join(levels) or None


def _longest(choice: Choice) -> float:
    longest = choice.ms if choice.ms is not None else choice.at_most_ms
    assert longest is not None  # it fits, so it is known
    return longest
