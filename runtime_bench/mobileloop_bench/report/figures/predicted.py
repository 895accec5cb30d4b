"""What the model of time said before, beside what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import altair as alt

from mobileloop_bench.report.figures.bars import MOST_ROWS, drawing, height_of, left_out, pixels, place, row_names
from mobileloop_bench.report.figures.drawing import Canvas, Figure, Panel, Plot, Table, plot, values, x_axis
from mobileloop_bench.report.figures.naming import Group, Names
from mobileloop_bench.report.figures.palette import COLOURS, Mark
from mobileloop_bench.results.result import Result
from mobileloop_bench.writing.units import UNKNOWN, figure

MEASURED, PREDICTED = Mark("measured", COLOURS[0]), Mark("predicted", COLOURS[1], "diamond", hollow=True)


def predicted(rows: Sequence[Result], names: Names) -> Figure | None:
    """Every row that carries a prediction."""
    known = [row for row in rows if row.prediction is not None and row.median_ms]
    if not known:
        return None
    groups = names.groups(known)
    errors = [_error(row) for row in known]
    worst = max(known, key=lambda row: abs(_error(row)))
    return Figure(
        "prediction",
        "Prediction against measurement",
        f"The model of time is off by {100 * statistics.median(map(abs, errors)):.0f}% in the median of "
        f"{len(known)} configurations, by {_signed(_error(worst))} at worst ({names.full_name(worst)}).",
        "Predicted from bytes, the bandwidth ladder and the engine's own costs, without looking at this measurement. "
        "The percentage is (predicted - measured) / measured." + left_out(max(len(group.rows) for group in groups)),
        [Panel(group.title, _described(group, names), drawing(_plot, group, names)) for group in groups],
        _table(known, names),
        (MEASURED, PREDICTED),
    )


def _error(row: Result) -> float:
    assert row.prediction is not None
    return row.prediction.ms / (row.median_ms or 1.0) - 1


def _signed(error: float) -> str:
    return f"{100 * error:+.0f}%".replace("-", "\N{MINUS SIGN}")


def _table(rows: Sequence[Result], names: Names) -> Table:
    lines = []
    for row in rows:
        held = row.prediction
        assert held is not None
        lines.append(
            (names.full_name(row), "whole token", figure(row.median_ms), figure(held.ms), _signed(_error(row)), "")
        )
        measured = {stage.stage: stage.median_ms for stage in row.stages}
        for stage in held.stages:
            seen = measured.get(stage.stage)
            off = _signed(stage.ms / seen - 1) if seen else UNKNOWN
            where = f"{stage.bound}-bound" + (f", repeats from {stage.resident}" if stage.resident else "")
            lines.append((names.full_name(row), stage.stage, figure(seen), figure(stage.ms), off, where))
    return Table(("configuration", "stage", "measured ms", "predicted ms", "error", "predicted bound"), lines)


def _described(group: Group, names: Names) -> str:
    told = "; ".join(
        f"{names.name(row)}: predicted {figure(row.prediction.ms if row.prediction else None, 'ms')}, measured "
        f"{figure(row.median_ms, 'ms')}"
        for row in group.rows[:MOST_ROWS]
    )
    return f"Dot chart of ms per decoded token. {told}."


def _plot(canvas: Canvas, rows: Sequence[Result], names: Names) -> Plot:
    height = height_of(len(rows))
    records = [
        {"measured": row.median_ms, "predicted": row.prediction.ms if row.prediction else None, **place(number)}
        for number, row in enumerate(rows)
    ]
    furthest = 1.04 * max(max(record["measured"] or 0, record["predicted"] or 0) for record in records)
    scale = alt.Scale(domain=[0, furthest], nice=False)
    base = values(records).encode(y=pixels("middle"))
    axis = x_axis("ms per decoded token", tickCount=5)
    layers = [
        base.mark_rule(color="currentColor", opacity=0.18, strokeWidth=1).encode(x=alt.value(0), x2=alt.value("width")),
        base.mark_rule(color="currentColor", strokeWidth=2, opacity=0.6).encode(
            x=alt.X("measured:Q", axis=axis, scale=scale), x2="predicted:Q"
        ),
        base.mark_point(color=MEASURED.colour, filled=True, size=80, opacity=1).encode(x=alt.X("measured:Q")),
        base.mark_point(shape="diamond", color=PREDICTED.colour, size=110, strokeWidth=2.2, opacity=1).encode(
            x=alt.X("predicted:Q")
        ),
    ]
    said = [(names.name(row), _signed(_error(row))) for row in rows]
    return plot(canvas, height, lambda width: [*layers, *row_names(said, width)], left=10)
