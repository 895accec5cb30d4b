"""The bandwidth ladder with the block drawn in, and the latency of one load beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from mobileloop_bench.machine.ladder import Ladder, Rung, Step
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
    first_free,
    plot,
    text_width,
    values,
    x_axis,
    y_axis,
)
from mobileloop_bench.report.figures.palette import COLOURS, SHAPES, Mark
from mobileloop_bench.report.residency import ladder_level
from mobileloop_bench.results.document import Document
from mobileloop_bench.results.result import Result
from mobileloop_bench.writing.units import counted, figure, mebibytes

LEFT, RIGHT = 48, 26
SIZE = (
    "datum.value >= 1073741824 ? format(datum.value / 1073741824, '~g') + ' GiB' : datum.value >= 1048576 ? "
    "format(datum.value / 1048576, '~g') + ' MiB' : format(datum.value / 1024, '~g') + ' KiB'"
)


def bandwidth_ladder(document: Document, rows: Sequence[Result], run: str = "") -> Figure | None:
    """One panel per cluster; `rows` name the sizes of blocks and of looped stages to draw in."""
    ladder = document.ladder
    if ladder is None or not (ladder.rungs or ladder.steps):
        return None
    clusters = list(dict.fromkeys([*(rung.cluster for rung in ladder.rungs), *(step.cluster for step in ladder.steps)]))
    sizes = sizes_drawn(rows)
    counts = sorted({rung.threads for rung in ladder.rungs} | {step.threads for step in ladder.steps})
    marks = {count: _mark(number, count) for number, count in enumerate(counts)}
    panels = [
        Panel(_title(cluster, clusters), _described(ladder, cluster, sizes), _drawing(ladder, cluster, sizes, marks))
        for cluster in clusters
    ]
    table = Table(
        ("threads", "cluster", "level", "up to", "read bandwidth", "latency"),
        [
            (
                str(step.threads),
                "any" if step.cluster is None else str(step.cluster),
                step.level,
                mebibytes(step.up_to_bytes) if step.up_to_bytes else "beyond",
                figure(step.read_gbps, "GB/s"),
                figure(step.latency_ns, "ns"),
            )
            for step in ladder.steps
        ],
    )
    cold = " Dashed lines are cold reads, with the working set evicted before." if _has_cold(ladder) else ""
    return Figure(
        f"ladder{run}",
        f"Bandwidth ladder{run.replace('-', ', ', 1).replace('-', ' ')}",
        _finding(ladder, rows),
        "GB/s read from a working set of all threads together, both axes logarithmic; the knees are the caches. The "
        f"upright lines are what has to fit a step for loops to be read from there.{cold}",
        panels,
        table,
        list(marks.values()),
    )


def latency_ladder(document: Document, run: str = "") -> Figure | None:
    """Nanoseconds of one dependent load against the working set, read before."""
    latencies = [one for one in document.ladder.latencies if one.state == "warm"] if document.ladder else []
    if not latencies:
        return None
    clusters = list(dict.fromkeys(one.cluster for one in latencies))
    marks = {
        cluster: Mark("one load" if cluster is None else f"cluster {cluster}", COLOURS[number], SHAPES[number])
        for number, cluster in enumerate(clusters[: len(SHAPES)])
    }
    ordered = sorted(latencies, key=lambda one: one.size_bytes)
    records = {c: [{"size": o.size_bytes, "ns": o.ns} for o in ordered if o.cluster == c] for c in marks}
    told = ", ".join(
        f"{mebibytes(one.size_bytes)} {figure(one.ns, 'ns')}" for one in ordered[:: max(len(ordered) // 8, 1)]
    )

    def drawing(canvas: Canvas) -> Plot:
        low, high = ordered[0].size_bytes, ordered[-1].size_bytes
        top = 1.15 * max(one.ns for one in ordered)
        x = _size_axis(canvas, low, high)
        y = alt.Y(
            "ns:Q",
            axis=y_axis(values=decades(0.8, top), format="~g"),
            scale=alt.Scale(type="log", domain=[min(0.8, 0.9 * min(one.ns for one in ordered)), top], nice=False),
        )
        layers = []
        for cluster, mark in marks.items():
            base = values(records[cluster]).encode(x=x, y=y)
            layers += [
                base.mark_line(color=mark.colour, strokeWidth=2.5),
                base.mark_point(color=mark.colour, shape=mark.shape, filled=True, size=30, opacity=1),
            ]
        return plot(canvas, 200, lambda _: layers, unit="ns per dependent load", left=LEFT, right=RIGHT)

    return Figure(
        f"latency-ladder{run}",
        f"Latency of memory{run.replace('-', ', ', 1).replace('-', ' ')}",
        f"A load that hits the smallest working set takes {figure(ordered[0].ns, 'ns')}, one from DRAM "
        f"{figure(ordered[-1].ns, 'ns')}.",
        "Time of one load that depends on the one before it (pointer chase), on one thread, both axes logarithmic.",
        [Panel("", f"Line chart of ns per load against working set: {told}.", drawing)],
        Table(
            ("working set", "cluster", "latency"),
            [
                (mebibytes(one.size_bytes), "any" if one.cluster is None else str(one.cluster), figure(one.ns, "ns"))
                for one in ordered
            ],
        ),
        list(marks.values()) if len(marks) > 1 else (),
    )


def sizes_drawn(rows: Sequence[Result]) -> list[tuple[str, int]]:
    """(name, bytes) of the smallest block, looped stage and whole model; what is the same size is named once."""
    found: dict[int, str] = {}
    for name, attribute in (("block", "block_bytes"), ("looped stage", "stage_bytes"), ("all weights", "unique_bytes")):
        sizes = [size for row in rows if (size := getattr(row, attribute))]
        if sizes:
            found.setdefault(min(sizes), name)
    return [(name, size) for size, name in sorted(found.items())]


def _finding(ladder: Ladder, rows: Sequence[Result]) -> str:
    threads = max(step.threads for step in ladder.steps) if ladder.steps else 0
    steps = [step for step in ladder.steps if step.threads == threads]
    memory = next((step for step in steps if step.up_to_bytes is None), None)
    stage = min(
        (row.stage_bytes or row.block_bytes or 0 for row in rows if row.stage_bytes or row.block_bytes), default=0
    )
    level = ladder_level(ladder, stage, threads) if stage else None
    said = f"On {counted(threads, 'thread')}, memory delivers {figure(memory.read_gbps, 'GB/s')}" if memory else ""
    if not level or not said:
        return f"{said}." if said else "No steps were read from the ladder."
    held = next(step for step in steps if step.level == level)
    if level == "DRAM":
        return f"{said}; the block of {_mib(stage)} fits no cache."
    return f"{said}; the block of {_mib(stage)} fits {level}, which delivers {figure(held.read_gbps, 'GB/s')}."


def _mib(size_bytes: int) -> str:
    """Three digits are enough for a block."""
    return figure(size_bytes / 2**20, "MiB") if size_bytes >= 1 << 20 else figure(size_bytes / 2**10, "KiB")


def _mark(number: int, count: int) -> Mark:
    return Mark(counted(count, "thread"), COLOURS[number % len(COLOURS)], SHAPES[number % len(SHAPES)])


def _title(cluster: int | None, clusters: Sequence[int | None]) -> str:
    if len(clusters) == 1 and cluster is None:
        return ""
    return "threads anywhere" if cluster is None else f"cluster {cluster}"


def _has_cold(ladder: Ladder) -> bool:
    return any(rung.state == "cold" for rung in ladder.rungs)


def _described(ladder: Ladder, cluster: int | None, sizes: Sequence[tuple[str, int]]) -> str:
    steps = "; ".join(
        f"{counted(step.threads, 'thread')} {step.level} {figure(step.read_gbps, 'GB/s')}"
        + (f" up to {mebibytes(step.up_to_bytes)}" if step.up_to_bytes else "")
        for step in ladder.steps
        if step.cluster == cluster
    )
    drawn = ", ".join(f"{name} {mebibytes(size)}" for name, size in sizes)
    return f"Line chart of GB/s against working set. {steps or 'no steps'}. Drawn in: {drawn or 'nothing'}."


def _drawing(ladder: Ladder, cluster: int | None, sizes: Sequence[tuple[str, int]], marks: dict[int, Mark]) -> Any:
    return lambda canvas: _plot(canvas, ladder, cluster, sizes, marks)


def _plot(
    canvas: Canvas, ladder: Ladder, cluster: int | None, sizes: Sequence[tuple[str, int]], marks: dict[int, Mark]
) -> Plot:
    rungs = sorted((rung for rung in ladder.rungs if rung.cluster == cluster), key=lambda rung: rung.size_bytes)
    steps = [step for step in ladder.steps if step.cluster == cluster]
    low, high = _size_range(rungs, steps, sizes)
    rates = [*(rung.read_gbps for rung in rungs), *(step.read_gbps for step in steps)]
    bottom, top = 0.75 * min(rates), 1.3 * max(rates)
    height = 280 if canvas.narrow else 360
    width = canvas.width - LEFT - RIGHT

    area = LogArea(width, height, (low, high), (bottom, top))
    x = _size_axis(canvas, low, high)
    y = alt.Y(
        "gbps:Q",
        axis=y_axis(values=decades(bottom, top), format="~g"),
        scale=alt.Scale(type="log", domain=[bottom, top], nice=False),
    )
    layers, taken = _sizes(sizes, area)
    for count, mark in marks.items():
        for state, dash in (("warm", [1, 0]), ("cold", [4, 3])):
            line = [
                {"size": r.size_bytes, "gbps": r.read_gbps} for r in rungs if (r.threads, r.state) == (count, state)
            ]
            if not line and state == "warm":
                line = _staircase([step for step in steps if step.threads == count], low, high)
            if line:
                base = values(line).encode(x=x, y=y)
                thick = 2.5 if state == "warm" else 1.5
                layers.append(base.mark_line(color=mark.colour, strokeWidth=thick, strokeDash=dash))
                points = [(area.across(point["size"]), area.up(point["gbps"])) for point in line]
                taken += [(px - 2, py - 2, px + 2, py + 2) for px, py in along(points)]
                if state == "warm":
                    layers.append(base.mark_point(color=mark.colour, shape=mark.shape, size=26, filled=True, opacity=1))
    for step, first, last in _plateaus(steps, low, high):
        said = f"{step.level} {figure(step.read_gbps)}"
        wide, level = text_width(said), area.up(step.read_gbps)
        centre = area.across(math.sqrt(first * last)) - wide / 2
        tries = [
            (centre + aside, level + over)
            for over in (-13, 13)
            for aside in (0, -15, 15, -30, 30, -45, 45, -60, 60, 75, 90)
        ]
        found = first_free(tries, wide, width + 14, height, taken)
        if found is not None:
            layers.append(Words(*found, said, colour=marks[step.threads].colour, bold=True))
    return plot(canvas, height, lambda _: layers, unit="GB/s read", left=LEFT, right=RIGHT, top=8 + 18 * len(sizes))


def _sizes(sizes: Sequence[tuple[str, int]], area: LogArea) -> tuple[list[Any], list[Box]]:
    """An upright line for each size; its name stands left of its top, smaller sizes lower, so that none is crossed."""
    layers, taken = [], list[Box]()
    for number, (name, size) in enumerate(sizes):
        at = area.across(size)
        said = f"{name} {_mib(size)}"
        above = -12 - 18 * number
        layers.append(
            values([{}])
            .mark_rule(color="currentColor", strokeWidth=2 if number == 0 else 1.2, opacity=0.9)
            .encode(x=alt.value(at), y=alt.value(above + 8), y2=alt.value(area.height))
        )
        fits = at > text_width(said)
        layers.append(Words(at + 4 if fits else 0, above, said, align="right" if fits else "left", bold=number == 0))
        taken.append((at - 2, 0, at + 2, area.height))
    return layers, taken


def _size_range(rungs: Sequence[Rung], steps: Sequence[Step], sizes: Sequence[tuple[str, int]]) -> tuple[float, float]:
    found = [*(rung.size_bytes for rung in rungs), *(size for _, size in sizes)]
    known = [step.up_to_bytes for step in steps if step.up_to_bytes]
    found += [max(min(known) // 4, 1), 4 * max(known)] if known else []
    return 0.9 * min(found), 1.1 * max([*found, 2 * min(found)])


def _size_axis(canvas: Canvas, low: float, high: float) -> Any:
    every = 4 if canvas.narrow else 2
    powers = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    ticks = [2.0**power for power in powers if power % every == 0]
    return alt.X(
        "size:Q",
        axis=x_axis("working set", values=ticks, labelExpr=SIZE),
        scale=alt.Scale(type="log", base=2, domain=[low, high], nice=False),
    )


def _plateaus(steps: Sequence[Step], low: float, high: float) -> list[tuple[Step, float, float]]:
    """(step, its smallest and largest working set) inside the range that is drawn."""
    found = []
    for count in sorted({step.threads for step in steps}):
        first = low
        for step in sorted((s for s in steps if s.threads == count), key=lambda s: s.up_to_bytes or math.inf):
            last = min(step.up_to_bytes or high, high)
            if last > first:
                found.append((step, first, last))
                first = last
    return found


def _staircase(steps: Sequence[Step], low: float, high: float) -> list[dict[str, float]]:
    """A machine file from published figures has steps alone."""
    return [{"size": size, "gbps": step.read_gbps} for step, *ends in _plateaus(steps, low, high) for size in ends]
