"""A budget plan for people."""

from __future__ import annotations

from rich.console import Console

from mobileloop.console import print_text
from mobileloop_bench.timemodel.budget import BudgetPlan, Choice
from mobileloop_bench.writing.table import Column, Table, print_table
from mobileloop_bench.writing.units import UNKNOWN, counted, figure, megabytes


def print_budget_plan(console: Console, plan: BudgetPlan) -> None:
    """The table, what is missing, and the answer."""
    source = "predicted from published figures" if plan.published else "predicted"
    title = f"{plan.model} on {plan.machine}, {source}, behind {counted(plan.context_depth, 'token')}"
    columns = [Column("quantization", left=True, context=True), Column("threads", context=True)]
    columns += [Column("loops", context=True), *map(Column, ("applications", "executed"))]
    columns += [Column("repeats from", left=True), *map(Column, ("ms", "tok/s", "in budget"))]
    print_table(console, Table(title, columns, [_cells(choice) for choice in plan.choices]))
    print_text(console, *sentences(plan))


def sentences(plan: BudgetPlan) -> list[str]:
    """What the table cannot say, the answer last."""
    said = [f"Unknown: {missing}." for missing in dict.fromkeys(c.missing for c in plan.choices if c.missing)]
    said += [f"Refused: {refused}." for refused in dict.fromkeys(c.refused for c in plan.choices if c.refused)]
    said += [f"Note: {note}." for note in plan.notes]
    return [*said, *_origin(plan), answer(plan)]


def _origin(plan: BudgetPlan) -> list[str]:
    """What must be said where the machine file was not measured."""
    if plan.published and plan.estimated:
        return [
            "Predicted from published figures and from estimated costs of the engine; nothing was measured on this "
            "machine (mobileloop machine lists the sources)."
        ]
    if plan.published:
        return ["Predicted from published figures, not measured by us (mobileloop machine lists the sources)."]
    return ["The engine's costs on this machine are estimated, not measured there."] if plan.estimated else []


def answer(plan: BudgetPlan) -> str:
    """The deepest schedule within the budget, or that there is none."""
    budget = figure(plan.budget_ms, "ms")
    if plan.deepest is None:
        unknown = any(choice.fits is None for choice in plan.choices)
        return f"No choice is known to keep {budget} per token." if unknown else f"No choice keeps {budget} per token."
    one = plan.deepest
    return (
        f"Deepest within {budget} per token: {counted(one.loops, 'loop')} ({one.applications} applications), "
        f"{one.quantization}, {counted(one.threads, 'thread')}, {_time(one)}."
    )


def _time(choice: Choice) -> str:
    if choice.ms is not None:
        return figure(choice.ms, "ms")
    if choice.at_least_ms is None:
        return UNKNOWN
    return f"{figure(choice.at_least_ms)} to {figure(choice.at_most_ms, 'ms')}"


def _cells(choice: Choice) -> list[str]:
    times = ["", ""] if choice.refused else [_time(choice).removesuffix(" ms"), figure(choice.tokens_per_s)]
    return [
        choice.quantization,
        str(choice.threads),
        str(choice.loops),
        str(choice.applications) if choice.applications else "",
        megabytes(choice.executed_bytes) if choice.applications else "",
        choice.resident or "",
        *times,
        {True: "yes", False: "no", None: UNKNOWN}[choice.fits],
    ]
