"""The machine over time: temperature by zone, frequency by cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import altair as alt

from mobileloop_bench.report.figures.drawing import (
    LINE,
    Canvas,
    Figure,
    Panel,
    Plot,
    Table,
    Words,
    apart,
    coloured,
    elided,
    plot,
    text_width,
    values,
    x_axis,
    y_axis,
)
from mobileloop_bench.report.figures.palette import COLOURS
from mobileloop_bench.results.document import Document
from mobileloop_bench.results.result import Sample
from mobileloop_bench.writing.units import figure

MOST_LINES = 6
LABEL = 100  # pixels of the longest label at a line's end

Lines = dict[str, list[tuple[float, float]]]


def timeline(document: Document, run: str = "") -> Figure | None:
    """Temperature and frequency, each where the machine told it."""
    celsius = _lines(document.series, lambda sample: sample.celsius)
    mhz = _lines(document.series, lambda sample: {f"cluster {index}": value for index, value in sample.mhz.items()})
    shown = [("Temperature", "°C", celsius), ("Frequency", "MHz", mhz)]
    panels = [_panel(title, unit, lines) for title, unit, lines in shown if lines]
    if not panels:
        return None
    rows = [
        (
            name,
            unit,
            figure(line[0][1]),
            figure(min(v for _, v in line)),
            figure(max(v for _, v in line)),
            figure(line[-1][1]),
        )
        for _, unit, lines in shown
        for name, line in lines.items()
    ]
    more = max(len(celsius), len(mhz)) > MOST_LINES
    return Figure(
        f"timeline{run}",
        f"The machine over time{run.replace('-', ', ', 1).replace('-', ' ')}",
        _finding(celsius, mhz),
        "From the start of the run. A frequency that falls while the temperature rises is throttling; what it does to "
        "a result is in its validity."
        + (f" The {MOST_LINES} lines with the widest range are drawn; the table has all." if more else ""),
        panels,
        Table(("line", "unit", "at the start", "lowest", "highest", "at the end"), rows),
    )


def _lines(series: Sequence[Sample], of: Callable[[Sample], dict[str, float]]) -> Lines:
    found: Lines = {}
    for sample in series:
        for name, value in of(sample).items():
            found.setdefault(name, []).append((sample.t_s, value))
    return {name: sorted(line) for name, line in found.items() if len(line) > 1}


def _finding(celsius: Lines, mhz: Lines) -> str:
    parts = []
    if celsius:
        name, line = max(celsius.items(), key=lambda item: max(value for _, value in item[1]))
        parts.append(f"zone {name} went from {figure(line[0][1])} to {figure(max(v for _, v in line))} °C at most")
    falls = {name: 1 - min(v for _, v in line) / max(v for _, v in line) for name, line in mhz.items()}
    if falls:
        name = max(falls, key=lambda one: falls[one])
        fell = falls[name] > 0.02
        parts.append(f"the clock of {name} fell by up to {100 * falls[name]:.0f}%" if fell else "the clocks held still")
    said = ", and ".join(parts)
    return f"{said[:1].upper()}{said[1:]}."


def _panel(title: str, unit: str, lines: Lines) -> Panel:
    widest = sorted(lines, key=lambda name: min(v for _, v in lines[name]) - max(v for _, v in lines[name]))
    shown = {name: lines[name] for name in lines if name in widest[:MOST_LINES]}
    told = "; ".join(
        f"{name} from {figure(line[0][1])} to {figure(line[-1][1])} {unit}" for name, line in shown.items()
    )
    return Panel(title, f"Line chart of {unit} against seconds. {told}.", lambda canvas: _plot(canvas, unit, shown))


def _plot(canvas: Canvas, unit: str, lines: Lines) -> Plot:
    height = 200 if canvas.narrow else 260
    held = [value for line in lines.values() for _, value in line]
    margin = max(0.12 * (max(held) - min(held)), 0.02 * max(held), 0.5)
    low, high = (0.0, 1.1 * max(held)) if unit == "MHz" else (min(held) - margin, max(held) + margin)
    labels = {name: elided(name, LABEL) for name in lines}
    right = round(max(text_width(label) for label in labels.values())) + 14
    x = alt.X("t:Q", axis=x_axis("seconds", tickCount=5), scale=alt.Scale(nice=False))
    y = alt.Y("value:Q", axis=y_axis(), scale=alt.Scale(domain=[low, high], nice=False, zero=False))
    ends = [height * (1 - (line[-1][1] - low) / (high - low)) for line in lines.values()]
    records = [
        {"t": t, "value": value, "colour": COLOURS[number]}
        for number, line in enumerate(lines.values())
        for t, value in line
    ]
    layers: list[Any] = [values(records).mark_line(strokeWidth=2.5).encode(x=x, y=y, color=coloured())]

    def drawn(width: int) -> list[Any]:
        places = apart(ends, 0, height, LINE)
        return layers + [
            Words(width + 8, place, label, colour=COLOURS[number], bold=True)
            for number, (label, place) in enumerate(zip(labels.values(), places, strict=True))
        ]

    return plot(canvas, height, drawn, unit=unit, right=right, left=46)
