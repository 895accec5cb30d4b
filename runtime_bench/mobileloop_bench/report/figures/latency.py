"""How long single tokens took: the distribution of every configuration, tails included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import altair as alt
import numpy as np

from mobileloop_bench.report.figures.bars import MOST_ROWS, drawing, height_of, left_out, pixels, place, row_names
from mobileloop_bench.report.figures.drawing import (
    Canvas,
    Figure,
    Panel,
    Plot,
    Table,
    coloured,
    decades,
    plot,
    points,
    values,
    x_axis,
)
from mobileloop_bench.report.figures.naming import Group, Names
from mobileloop_bench.results.result import Result
from mobileloop_bench.writing.units import figure

BINS = 90
HILL = 24  # pixels of the highest point


def latency(rows: Sequence[Result], names: Names) -> Figure | None:
    """One hill for each configuration with samples."""
    sampled = [row for row in rows if len(row.samples_ms) > 1 and min(row.samples_ms) > 0]
    if not sampled:
        return None
    groups = names.groups(sampled)
    table = Table(
        ("configuration", "samples", "p10", "p50", "p90", "p99", "longest"),
        [
            (
                names.full_name(row),
                str(len(row.samples_ms)),
                *(figure(float(np.percentile(row.samples_ms, part)), "ms") for part in (10, 50, 90, 99)),
                figure(max(row.samples_ms), "ms"),
            )
            for row in sampled
        ],
    )
    tails = [(_percentile(row, 99) / _percentile(row, 50), row) for row in sampled]
    tail, row = max(tails, key=lambda pair: pair[0])
    return Figure(
        "latency",
        "Latency of single tokens",
        f"The slowest token in a hundred takes at most {figure(tail)} times the median ({names.full_name(row)}).",
        "Each hill is the distribution of all decoded tokens of a configuration over a logarithmic axis, each to its "
        "own height. The thick line is the median, the bar below runs from the 10th to the 90th percentile, the dot is "
        "the 99th." + left_out(max(len(group.rows) for group in groups)),
        [Panel(group.title, _described(group, names), drawing(_plot, group, names)) for group in groups],
        table,
    )


def _percentile(row: Result, part: float) -> float:
    return float(np.percentile(row.samples_ms, part))


def _described(group: Group, names: Names) -> str:
    told = "; ".join(
        f"{names.name(row)}: median {figure(_percentile(row, 50), 'ms')}, p99 {figure(_percentile(row, 99), 'ms')}"
        for row in group.rows[:MOST_ROWS]
    )
    return f"Distributions of ms per decoded token. {told}."


def _plot(canvas: Canvas, rows: Sequence[Result], names: Names) -> Plot:
    height = height_of(len(rows))
    low = 0.94 * min(float(np.percentile(row.samples_ms, 0.5)) for row in rows)
    high = 1.06 * max(_percentile(row, 99.5) for row in rows)
    x = alt.X(
        "ms:Q",
        axis=x_axis("ms per decoded token", values=_ticks(low, high), format="~g"),
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
    )
    hills, facts, said = [], [], []
    for number, row in enumerate(rows):
        mark, at = names.mark(row), place(number)
        base_line = at["bottom"]
        edges = np.geomspace(low, high, BINS + 1)
        counts = np.histogram(np.clip(row.samples_ms, low, high), edges)[0].astype(float)
        smooth = np.convolve(counts, [0.25, 0.5, 0.25], mode="same")
        tops = base_line - HILL * smooth / max(smooth.max(), 1e-9)
        middles = np.sqrt(edges[:-1] * edges[1:])
        kept = np.convolve(smooth, [1, 1, 1], mode="same") > 0
        hills += [
            {
                "ms": round(float(ms), 5),
                "top": round(float(top), 2),
                "base": base_line,
                "row": number,
                "colour": mark.colour,
            }
            for ms, top, keep in zip(middles, tops, kept, strict=True)
            if keep
        ]
        facts.append(
            {
                "ms": _percentile(row, 50),
                "p10": _percentile(row, 10),
                "p90": _percentile(row, 90),
                "p99": _percentile(row, 99),
                "top": base_line - HILL * 0.75,
                "base": base_line + 1,
                "colour": mark.colour,
            }
        )
        said.append((names.name(row), figure(_percentile(row, 50), "ms")))
    y, base, bars = pixels("top"), pixels("base"), values(facts)
    hill = values(hills).mark_area(opacity=0.35).encode(x=x, y=y, y2="base:Q", color=coloured(), detail="row:N")
    median = bars.mark_rule(strokeWidth=3).encode(x=x, y=y, y2="base:Q", color=coloured())
    spread = bars.mark_rule(strokeWidth=3).encode(x=alt.X("p10:Q"), x2="p90:Q", y=base, color=coloured())
    marks = [replace(names.mark(row), shape="circle") for row in rows]
    tail = points(facts, marks, size=30, x=alt.X("p99:Q"), y=base)
    layers = [hill, spread, median, tail]
    return plot(canvas, height, lambda width: [*layers, *row_names(said, width)], left=4)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers over a logarithmic axis."""
    found: list[float] = []
    for steps in ((1, 10), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        found = sorted(set(decades(low, high, steps)))  # 10 times one power is 1 time the next
        if len(found) >= 4:
            break
    return found if len(found) >= 3 else [float(f"{value:.2g}") for value in np.linspace(low * 1.02, high * 0.98, 4)]
