"""The roofline in bytes: what the kernels consumed per second against how often each byte from memory was used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from mobileloop_bench.machine.ladder import Ladder, Step
from mobileloop_bench.report.figures.drawing import (
    Box,
    Canvas,
    Figure,
    LogArea,
    Panel,
    Plot,
    Table,
    Words,
    along,
    decades,
    label_boxes,
    plot,
    points,
    text_width,
    values,
    x_axis,
    y_axis,
)
from mobileloop_bench.report.figures.naming import Group, Names
from mobileloop_bench.report.residency import doubt
from mobileloop_bench.results.document import Document, decode_rows
from mobileloop_bench.results.result import Result
from mobileloop_bench.results.table import share
from mobileloop_bench.writing.units import figure

LEFT, RIGHT = 44, 16


PACE = 0.8  # of the read bandwidth: below, waiting for memory does not explain the time


def roofline(documents: Sequence[Document], names: Names, ladder: Ladder | None) -> Figure | None:
    """Every configuration whose bytes and time are known; the caches' roofs where there is a ladder."""
    pairs = [(row, document) for document in documents for row in decode_rows([document])]
    pairs = [(row, document) for row, document in pairs if _reuse(row) is not None and row.executed_gbps]
    known = [row for row, _ in pairs]
    if not known:
        return None
    groups = names.groups(known)
    panels = [Panel(group.title, _described(group, names), _drawing(group, names, ladder)) for group in groups]
    table = Table(
        ("configuration", "uses per byte", "consumed", "read from memory", "of read bandwidth"),
        [
            (
                names.full_name(row),
                figure(_reuse(row)),
                figure(row.executed_gbps, "GB/s"),
                figure(row.read_gbps, "GB/s"),
                share(row.ceiling_share),
            )
            for row in known
        ],
    )
    return Figure(
        "roofline",
        "Roofline",
        _finding(pairs, names),
        _caption(groups, ladder),
        panels,
        table,
        names.marks(known),
    )


def _reuse(row: Result) -> float | None:
    if row.executed_bytes is None or row.unique_bytes is None or row.kv_bytes is None:
        return None
    return (row.executed_bytes + row.kv_bytes) / max(row.unique_bytes + row.kv_bytes, 1)


def _caption(groups: Sequence[Group], ladder: Ladder | None) -> str:
    """What is drawn and nothing else."""
    told = (
        "Across: how often a byte that came from memory is used, (executed + KV bytes) / (unique + KV bytes). Up: "
        "bytes that the kernels consumed per second, from whatever cache. Numbers are loops."
    )
    roofed = any(_ceiling(group) for group in groups)
    if roofed:
        told += (
            " The rising line is the measured read bandwidth times that use: a point on it uses all of it; above it, "
            "weights came from a cache instead."
        )
    if any(_caches(ladder, group.threads, _highest(group)) for group in groups):
        told += " Level lines are what the caches deliver, from the bandwidth ladder."
    return told if roofed else f"{told} The read bandwidth is unknown, so there is no roof."


def _finding(pairs: Sequence[tuple[Result, Document]], names: Names) -> str:
    """Of the valid results; where none is valid, that it is none is said and nothing is concluded."""
    pairs = [(row, document) for row, document in pairs if row.valid] or pairs
    shares = [(row, document) for row, document in pairs if row.ceiling_share is not None]
    if not shares:
        best = max((row for row, _ in pairs), key=lambda row: row.executed_gbps or 0.0)
        most = ", the most of all" if len(pairs) > 1 else ""
        untrue = "" if best.valid else ", which is not a valid result"
        return f"{names.full_name(best)} consumes {figure(best.executed_gbps, 'GB/s')}{most}{untrue}."
    best, document = max(shares, key=lambda pair: pair[0].ceiling_share or 0.0)
    used = best.ceiling_share or 0.0
    verb = "comes closest to the roof: " if len(shares) > 1 else "stands at "
    said = f"{names.full_name(best)} {verb}{share(used)} of {'it' if len(shares) > 1 else 'the roof'}"
    why = doubt(best, document)
    if why:
        return f"{said}, in doubt: {why}."
    if used < PACE:
        return f"{said}, so something else than memory sets the pace."
    return f"{said}, so {'a cache helped' if used > 1 else 'memory sets the pace'}."


def _ceiling(group: Group) -> float | None:
    return next((row.ceiling_gbps for row in group.rows if row.ceiling_gbps), None)


def _highest(group: Group) -> float:
    return max(row.executed_gbps or 1.0 for row in group.rows)


def _described(group: Group, names: Names) -> str:
    told = "; ".join(
        f"{names.name(row)} consumes {figure(row.executed_gbps, 'GB/s')} at {figure(_reuse(row))} uses per byte"
        for row in group.rows
    )
    ceiling = _ceiling(group)
    return f"Scatter chart, both axes logarithmic; read bandwidth {figure(ceiling, 'GB/s')}. {told}."


def _drawing(group: Group, names: Names, ladder: Ladder | None) -> Any:
    return lambda canvas: _plot(canvas, group, names, ladder)


def _plot(canvas: Canvas, group: Group, names: Names, ladder: Ladder | None) -> Plot:
    rows = group.rows
    ceiling = _ceiling(group)
    far = max(2.0, 1.5 * max(_reuse(row) or 1.0 for row in rows))
    near = 0.8
    consumed = [row.executed_gbps or 1.0 for row in rows]
    caches = _caches(ladder, group.threads, _highest(group))
    # Both axes cover what is measured and the roof above it.
    tops = [1.3 * max(consumed), *(1.15 * step.read_gbps for step in caches)]
    tops += [ceiling * 1.3] if ceiling else []
    low = 0.6 * min([*consumed, *([ceiling] if ceiling else [])])
    high = max(tops)
    height = 260 if canvas.narrow else 340
    width = canvas.width - LEFT - RIGHT

    area = LogArea(width, height, (near, far), (low, high))
    x = alt.X(
        "reuse:Q",
        axis=x_axis("uses of each byte from memory", values=_ticks(near, far), format="~g"),
        scale=alt.Scale(type="log", domain=[near, far], nice=False),
    )
    y = alt.Y(
        "gbps:Q",
        axis=y_axis(values=_ticks(low, high), format="~g"),
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
    )
    layers, taken = _roof(ceiling, area, x, y) if ceiling else ([], list[Box]())
    for step in caches:
        level = area.up(step.read_gbps)
        layers.append(
            values([{"gbps": step.read_gbps}])
            .mark_rule(color="currentColor", strokeWidth=1.5, strokeDash=[6, 4], opacity=0.7)
            .encode(y=y)
        )
        said = f"{step.level}, {figure(step.read_gbps, 'GB/s')}"
        layers.append(Words(8, level - 9, said))
        taken += [(0, level - 17, text_width(said) + 10, level - 1), (0, level - 2, width, level + 2)]
    records = [{"reuse": _reuse(row), "gbps": row.executed_gbps} for row in rows]
    layers.append(points(records, [names.mark(row) for row in rows], size=80, x=x, y=y))
    wanted = [(area.across(_reuse(row) or 1.0), area.up(row.executed_gbps or low), str(row.loops)) for row in rows]
    for row, (_, _, said), free in zip(rows, wanted, label_boxes(wanted, width, height, taken), strict=True):
        if free is not None:
            layers.append(Words(*free, said, colour=names.mark(row).colour, bold=True))
    return plot(canvas, height, lambda _: layers, unit="GB/s consumed", left=LEFT, right=RIGHT)


def _roof(ceiling: float, area: LogArea, x: Any, y: Any) -> tuple[list[Any], list[Box]]:
    """The rising line of `ceiling` GB/s with its name along it, and the boxes that no label may take."""
    (near, far), (low, high) = area.across_range, area.up_range
    start, end = max(near, low / ceiling), min(far, high / ceiling)
    line = values([{"reuse": reuse, "gbps": ceiling * reuse} for reuse in (start, end)])
    layers = [line.mark_line(color="currentColor", strokeWidth=2).encode(x=x, y=y)]
    ends = [(area.across(reuse), area.up(ceiling * reuse)) for reuse in (start, end)]
    taken = [(px - 3, py - 3, px + 3, py + 3) for px, py in along(ends)]
    (x0, y0), (x1, y1) = ends
    slope = math.atan2(y1 - y0, x1 - x0)
    said = f"memory, {figure(ceiling, 'GB/s')}"
    middle, above, half = (x0 + x1) / 2, (y0 + y1) / 2 - 9, text_width(said) / 2
    layers.append(Words(middle, above, said, align="center", angle=math.degrees(slope)))
    reach = (half * math.cos(slope), half * math.sin(slope))
    name = along([(middle - reach[0], above - reach[1]), (middle + reach[0], above + reach[1])])
    return layers, taken + [(px - 7, py - 8, px + 7, py + 8) for px, py in name]


def _caches(ladder: Ladder | None, threads: int, highest: float) -> list[Step]:
    """The caches' steps up to the first one above every point: the roofs further up bound nothing."""
    if ladder is None:
        return []
    clusters = dict.fromkeys(step.cluster for step in ladder.steps if step.threads == threads)
    if not clusters:
        return []
    steps = [s for s in ladder.steps_of(threads, next(iter(clusters))) if s.up_to_bytes is not None]
    found = []
    for step in sorted(steps, key=lambda step: step.read_gbps):
        found.append(step)
        if step.read_gbps > highest:
            break
    return found


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, or powers of two over a short range."""
    if high / low < 24:
        powers = range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)
        return [2.0**power for power in powers if low <= 2.0**power <= high]
    return decades(low, high)
