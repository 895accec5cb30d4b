"""Bytes of one decoded token: unique, executed and KV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from mobileloop_bench.report.figures.bars import MOST_ROWS, height_of, left_out, pixels, place, row_names
from mobileloop_bench.report.figures.drawing import Canvas, Figure, Panel, Plot, Table, coloured, plot, values, x_axis
from mobileloop_bench.report.figures.naming import Names
from mobileloop_bench.report.figures.palette import COLOURS, Mark
from mobileloop_bench.results.result import Result
from mobileloop_bench.writing.units import counted, figure, megabytes

PARTS = (
    Mark("unique: once from memory", COLOURS[0], "square"),
    Mark("executed again: the same weights, from a cache if resident", COLOURS[1], "square"),
    Mark("KV", COLOURS[3], "square"),
)


def traffic(rows: Sequence[Result], names: Names) -> Figure | None:
    """One bar for each artifact, loop count and depth; the threads do not matter."""
    known = [row for row in rows if None not in (row.unique_bytes, row.executed_bytes, row.kv_bytes)]
    bars: dict[tuple[Any, ...], list[Result]] = {}
    for row in known:  # artifacts of one model read the same bytes: one bar for all of them
        key = (row.model, row.loops, row.depth, row.sequences, row.unique_bytes, row.executed_bytes, row.kv_bytes)
        bars.setdefault(key, []).append(row)
    if not bars:
        return None
    several_depths = len({row.depth for row in known}) > 1

    def name(members: Sequence[Result]) -> str:
        series = ", ".join(dict.fromkeys(names.mark(row).label for row in members))
        deep = f", {members[0].depth} tokens deep" if several_depths else ""
        return f"{counted(members[0].loops, 'loop')}{deep}: {series}"

    told = sorted(bars.values(), key=lambda members: (members[0].unique_bytes, members[0].loops, members[0].depth))
    described = "; ".join(
        f"{name(m)}: unique {megabytes(m[0].unique_bytes)}, executed {megabytes(m[0].executed_bytes)}, "
        f"KV {megabytes(m[0].kv_bytes)}"
        for m in told[:MOST_ROWS]
    )
    table = Table(
        ("configuration", "unique", "executed", "KV", "activations", "executed / unique"),
        [
            (
                name(m),
                megabytes(m[0].unique_bytes),
                megabytes(m[0].executed_bytes),
                megabytes(m[0].kv_bytes),
                megabytes(m[0].activation_bytes),
                figure((m[0].executed_bytes or 0) / (m[0].unique_bytes or 1)),
            )
            for m in told
        ],
    )
    shown = [(name(members), members[0]) for members in told[:MOST_ROWS]]
    most = max(known, key=lambda row: (row.executed_bytes or 0) / (row.unique_bytes or 1))
    finding = (
        f"{counted(most.loops, 'loop')} of {names.mark(most).label} execute {megabytes(most.executed_bytes)} a token, "
        f"of which {megabytes(most.unique_bytes)} are unique; the KV cache adds {megabytes(most.kv_bytes)}."
    )
    return Figure(
        "bytes",
        "Bytes of one decoded token",
        finding,
        "Unique bytes are weights read at least once; executed bytes count a block once per application, so the second "
        "part is what loops read again. KV bytes are those of the token in the middle of the decode, every "
        "application's own slot. MB is 1e6 bytes." + left_out(len(told)),
        [Panel("", f"Stacked bar chart. {described}.", lambda canvas: _plot(canvas, shown))],
        table,
        PARTS,
    )


def _plot(canvas: Canvas, shown: Sequence[tuple[str, Result]]) -> Plot:
    height = height_of(len(shown))
    records, totals = [], []
    for number, (_, row) in enumerate(shown):
        unique, executed, kv = (row.unique_bytes or 0), (row.executed_bytes or 0), (row.kv_bytes or 0)
        start = 0.0
        for mark, size in zip(PARTS, (unique, max(executed - unique, 0), kv), strict=True):
            if size:
                end = start + size / 1e6
                records.append({"colour": mark.colour, "from": start, "to": end, **place(number)})
                start = end
        totals.append(start)
    x = alt.X(
        "from:Q",
        axis=x_axis("MB per token", tickCount=5),
        scale=alt.Scale(domain=[0, max(totals)], nice=False, padding=0),
    )
    bars = values(records).mark_bar(stroke="var(--ground)", strokeWidth=1, orient="horizontal")
    layer = bars.encode(x=x, x2="to:Q", y=pixels("top"), y2="bottom:Q", color=coloured())
    said = [(name, figure(total, "MB")) for (name, _), total in zip(shown, totals, strict=True)]
    return plot(canvas, height, lambda width: [layer, *row_names(said, width)], left=4)
