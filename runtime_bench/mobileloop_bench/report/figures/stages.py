"""Where the time of a token goes: the first loop, which brings the weights, and the ones that read them again."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from mobileloop_bench.report.figures.bars import MOST_ROWS, drawing, height_of, left_out, pixels, place, row_names
from mobileloop_bench.report.figures.drawing import Canvas, Figure, Panel, Plot, Table, coloured, plot, values, x_axis
from mobileloop_bench.report.figures.naming import Group, Names
from mobileloop_bench.report.figures.palette import COLOURS, Mark
from mobileloop_bench.results.result import Result
from mobileloop_bench.results.table import share
from mobileloop_bench.writing.units import figure

FIRST = Mark("first loop: brings the weights", COLOURS[0], "square")
AGAIN = Mark("each further loop: reads them again", COLOURS[1], "square")
OTHER = Mark("stages without loops, and the head", COLOURS[2], "square")
REST = Mark("rest of the token", COLOURS[7], "square")


def stages(rows: Sequence[Result], names: Names) -> Figure | None:
    """Every row whose runtime tells the time of its stages."""
    told = [row for row in rows if row.stages and row.median_ms]
    if not told:
        return None
    groups = names.groups(told)
    looped = [row for row in told if _repeat(row) is not None]
    finding = "No stage was looped where the runtime tells its time."
    if looped:
        row = max(looped, key=lambda row: (row.valid, row.threads, row.loops))
        finding = (
            f"A further loop takes {share(_repeat(row))} of the first one's time ({names.full_name(row)}): the first "
            "waits for the weights, the others read them again."
            + (" It is not a valid result." if not row.valid else "")
        )
    table = Table(
        ("configuration", "stage", "loops", "whole stage", "by loop"),
        [
            (
                names.full_name(row),
                stage.stage,
                str(stage.loops),
                figure(stage.median_ms, "ms"),
                ", ".join(figure(ms) for ms in stage.loop_ms) + (" ms" if stage.loop_ms else "") or "not told",
            )
            for row in told
            for stage in row.stages
        ],
    )
    used = {part[0] for row in told for part in _parts(row)}
    return Figure(
        "stages",
        "Where a token's time goes",
        finding,
        "Medians of the stages, stacked; the rest is what the median token takes beyond them: the embedding, and the "
        "call and its return with the logits." + left_out(max(len(group.rows) for group in groups)),
        [Panel(group.title, _described(group, names), drawing(_plot, group, names)) for group in groups],
        table,
        [mark for mark in (FIRST, AGAIN, OTHER, REST) if mark in used],
    )


def _parts(row: Result) -> list[tuple[Mark, float]]:
    """(mark, ms) in the order of a token, the loops of all looped stages added up by their number."""
    looped = [stage.loop_ms for stage in row.stages if stage.loops > 1 and len(stage.loop_ms) > 1]
    by_loop = [
        sum(ms[number] for ms in looped if number < len(ms)) for number in range(max(map(len, looped), default=0))
    ]
    once = sum(stage.median_ms for stage in row.stages if not (stage.loops > 1 and len(stage.loop_ms) > 1))
    parts = [(FIRST if number == 0 else AGAIN, ms) for number, ms in enumerate(by_loop)]
    parts += [(OTHER, once)] if once > 0 else []
    rest = (row.median_ms or 0.0) - sum(ms for _, ms in parts)
    return [*parts, *([(REST, rest)] if rest > 0 else [])]


def _repeat(row: Result) -> float | None:
    """Mean time of the further loops over that of the first."""
    parts = _parts(row)
    first = [ms for mark, ms in parts if mark is FIRST]
    again = [ms for mark, ms in parts if mark is AGAIN]
    return sum(again) / len(again) / first[0] if again and first and first[0] > 0 else None


def _described(group: Group, names: Names) -> str:
    told = "; ".join(
        f"{names.name(row)}: " + ", ".join(f"{figure(ms, 'ms')} {mark.label}" for mark, ms in _parts(row))
        for row in group.rows[:MOST_ROWS]
    )
    return f"Stacked bar chart of ms per decoded token. {told}."


def _plot(canvas: Canvas, rows: Sequence[Result], names: Names) -> Plot:
    height = height_of(len(rows))
    records, ends = [], []
    for number, row in enumerate(rows):
        start = 0.0
        for mark, ms in _parts(row):
            records.append({"colour": mark.colour, "from": start, "to": start + ms, **place(number)})
            start += ms
        ends.append(start)
    x = alt.X(
        "from:Q",
        axis=x_axis("ms per decoded token", tickCount=5),
        scale=alt.Scale(domain=[0, max(ends)], nice=False, padding=0),
    )
    bars = values(records).mark_bar(stroke="var(--ground)", strokeWidth=1.5, orient="horizontal")
    layer = bars.encode(x=x, x2="to:Q", y=pixels("top"), y2="bottom:Q", color=coloured())
    said = [(names.name(row), figure(row.median_ms, "ms")) for row in rows]
    return plot(canvas, height, lambda width: [layer, *row_names(said, width)], left=4)
