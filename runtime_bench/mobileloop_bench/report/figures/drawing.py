"""How every chart is drawn: altair draws static SVG, so that the page needs no script.

A chart is drawn for a width, not scaled to it: text is as large on a phone as on a desk. Geometry is fixed here
(`Plot`), so that labels can be placed where they hit nothing. Text takes `currentColor` and the series take CSS
variables of the page, so one drawing serves light and dark; a file of its own gets the light colours and a ground.
"""

from __future__ import annotations

import itertools
import math
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import altair as alt
import vl_convert
from altair.utils.schemapi import debug_mode

from mobileloop_bench.report.figures.palette import LIGHT, Mark

MAX_POWER = sys.float_info.max_10_exp  # a result may hold any number

# Columns of the page in CSS pixels: a phone or one of two columns, and the whole width beside the text.
NARROW, WIDE = 336, 704
FONT_SIZE, LINE = 13, 18
FONT = "Arial, 'Liberation Sans', Helvetica, sans-serif"
MARGIN = 14  # around a chart in a file of its own
CHARACTER = 0.6 * FONT_SIZE  # of bold Arial; enough for the browser to choose a like font


@dataclass(frozen=True)
class Canvas:
    """Where a chart goes: `width` pixels of the page, or `alone` in a file that needs its title and key inside."""

    width: int
    alone: bool = False

    @property
    def narrow(self) -> bool:
        """Whether there is no room for finer ticks or long labels."""
        return self.width < (NARROW + WIDE) // 2


@dataclass(frozen=True)
class Plot:
    """The drawn layers, the size of the plotting area, and the room around it."""

    layers: Sequence[Any]  # charts of altair, and Words
    width: int
    height: int
    left: int
    top: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Panel:
    """One chart of a figure: `title` tells it from its neighbours, `described` is for those who do not see it."""

    title: str
    described: str
    plot: Callable[[Canvas], Plot]


@dataclass(frozen=True)
class Table:
    """A figure as text: what its marks say, in rows."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """One or several panels under one finding.

    Attributes:
        slug: for ids and file names.
        finding: what it says, in a sentence.
        title: what it shows.
        caption: how to read it.
        key: marks that are not labelled inside the panels.
    """

    slug: str
    title: str
    finding: str
    caption: str
    panels: Sequence[Panel]
    table: Table
    key: Sequence[Mark] = field(default_factory=list)

    def svg(self, panel: Panel, width: int) -> str:
        """A panel for inline use: an image with a name and a description, and ids of its own."""
        name = f"{self.title}, {panel.title}" if panel.title else self.title
        prefix = re.sub(r"\W+", "-", f"{self.slug}-{self.panels.index(panel)}-{width}")
        with debug_mode(False):  # which checks every layer against altair's schema: seconds for a page
            svg = _rendered(panel.plot(Canvas(width)))
        return _accessible(svg, prefix, name, panel.described)

    def files(self) -> list[tuple[str, str]]:
        """(file stem, SVG that stands alone) of every panel."""
        found = []
        for number, panel in enumerate(self.panels, start=1):
            stem = self.slug if len(self.panels) == 1 else f"{self.slug}-{number}"
            with debug_mode(False):
                found.append((stem, _coloured(_rendered(_with_words(self, panel)))))
        return found


# -- layers --------------------------------------------------------------------------------------------


def values(records: Sequence[dict[str, Any]]) -> Any:
    """A chart of these records."""
    return alt.Chart({"values": list(records)})


@dataclass(frozen=True)
class Words:
    """A label at pixels of the plotting area; all of one panel become a few layers, since each layer costs time."""

    x: float
    y: float
    said: str
    align: str = "left"
    bold: bool = False
    colour: str = "currentColor"
    angle: float = 0.0
    size: int = FONT_SIZE


def _word_layers(words: Sequence[Words]) -> list[Any]:
    layers = []
    for align, size, bold in dict.fromkeys((one.align, one.size, one.bold) for one in words):
        records = [
            {"px": one.x, "py": one.y, "said": one.said, "colour": one.colour, "angle": one.angle % 360}
            for one in words
            if (one.align, one.size, one.bold) == (align, size, bold)
        ]
        weight = "bold" if bold else "normal"
        layers.append(
            values(records)
            .mark_text(align=align, baseline="middle", fontSize=size, fontWeight=weight)
            .encode(
                x=alt.X("px:Q", scale=None, axis=None),
                y=alt.Y("py:Q", scale=None, axis=None),
                text=alt.Text("said:N"),
                color=alt.Color("colour:N", scale=None, legend=None),
                angle=alt.Angle("angle:Q", scale=None),
            )
        )
    return layers


def points(records: Sequence[dict[str, Any]], marks: Sequence[Mark], size: int = 75, **channels: Any) -> Any:
    """One point for each record, as its mark looks."""
    looks = [
        {"colour": mark.colour, "inside": "var(--ground)" if mark.hollow else mark.colour, "shape": mark.shape}
        for mark in marks
    ]
    data = [{**record, **look} for record, look in zip(records, looks, strict=True)]
    return (
        values(data)
        .mark_point(size=size, strokeWidth=2, opacity=1)
        .encode(
            stroke=alt.Stroke("colour:N", scale=None, legend=None),
            fill=alt.Fill("inside:N", scale=None, legend=None),
            shape=alt.Shape("shape:N", scale=None, legend=None),
            **channels,
        )
    )


def coloured() -> Any:
    """A channel that takes each record's own `colour`."""
    return alt.Color("colour:N", scale=None, legend=None)


def plot(
    canvas: Canvas,
    height: int,
    layers: Callable[[int], Sequence[Any]],
    *,
    unit: str = "",
    left: int = 40,
    right: int = 12,
    top: int = 8,
    bottom: int = 44,
) -> Plot:
    """The geometry of one panel; `unit` of the y axis stands above it, `layers` are told the plotting width."""
    width = canvas.width - left - right
    said = [Words(-left, -18, unit)] if unit else []
    return Plot([*said, *layers(width)], width, height, left, top + (26 if unit else 0), bottom, right)


def x_axis(title: str, **more: Any) -> Any:
    """A horizontal axis without grid."""
    return alt.Axis(title=title, grid=False, ticks=True, **more)


def y_axis(**more: Any) -> Any:
    """A vertical axis of faint lines; its unit stands above the chart."""
    return alt.Axis(title=None, domain=False, ticks=False, **{"tickCount": 5, **more})


# -- labels --------------------------------------------------------------------------------------------


def decades(low: float, high: float, steps: Sequence[float] = (1, 2, 5)) -> list[float]:
    """`steps` times powers of ten, where they lie on a logarithmic axis."""
    powers = range(math.floor(math.log10(low)), min(math.ceil(math.log10(high)), MAX_POWER) + 1)
    return [value for power in powers for step in steps if low <= (value := step * 10.0**power) <= high]


def text_width(said: str) -> float:
    """Pixels of a label, near enough to keep labels apart."""
    return CHARACTER * len(said)


def elided(said: str, width: float) -> str:
    """`said` with its middle left out where it is wider than `width` pixels."""
    room = max(int(width / CHARACTER), 8)
    if len(said) <= room:
        return said
    return f"{said[: (room - 1) // 2]}…{said[-(room - 1 - (room - 1) // 2) :]}"


def apart(wanted: Sequence[float], low: float, high: float, gap: float = LINE) -> list[float]:
    """Places in order of `wanted`, at least `gap` apart, moved as little as a sweep down and one up can."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    places = [min(max(place, low), high) for place in wanted]
    for before, after in itertools.pairwise(order):
        places[after] = max(places[after], places[before] + gap)
    limit = high
    for index in reversed(order):
        places[index] = min(places[index], limit)
        limit = places[index] - gap
    return places


Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class LogArea:
    """Pixels of a plotting area with two logarithmic axes."""

    width: float
    height: float
    across_range: tuple[float, float]
    up_range: tuple[float, float]

    def across(self, value: float) -> float:
        """From the left."""
        low, high = self.across_range
        return self.width * math.log(value / low) / math.log(high / low)

    def up(self, value: float) -> float:
        """From the top."""
        low, high = self.up_range
        return self.height * (1 - math.log(value / low) / math.log(high / low))


def along(line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points every few pixels of a line, as obstacles for labels."""
    found = []
    for (x0, y0), (x1, y1) in itertools.pairwise(line):
        parts = max(int(max(abs(x1 - x0), abs(y1 - y0)) / 5), 1)
        found += [(x0 + (x1 - x0) * part / parts, y0 + (y1 - y0) * part / parts) for part in range(parts + 1)]
    return found


def label_boxes(
    wanted: Sequence[tuple[float, float, str]], width: float, height: float, taken: Sequence[Box] = ()
) -> list[tuple[float, float] | None]:
    """Left and middle of each label beside its point, or None where every place around it is taken."""
    boxes = [*taken, *((x - 5, y - 5, x + 5, y + 5) for x, y, _ in wanted)]
    found: list[tuple[float, float] | None] = []
    for x, y, said in wanted:
        wide = text_width(said)
        tries = ((x + 9, y), (x - 9 - wide, y), (x - wide / 2, y - 14), (x - wide / 2, y + 14))
        corners = ((x + 7, y - 12), (x + 7, y + 12), (x - 7 - wide, y - 12), (x - 7 - wide, y + 12))
        found.append(first_free((*tries, *corners), wide, width, height, boxes))
    return found


def first_free(
    tries: Sequence[tuple[float, float]], wide: float, width: float, height: float, boxes: list[Box]
) -> tuple[float, float] | None:
    """The first (left, middle) where a label of `wide` pixels hits none of `boxes`, which it then joins."""
    for left, middle in tries:
        box = (left, middle - 7, left + wide, middle + 7)
        inside = box[0] >= 0 and box[2] <= width + 8 and box[1] >= -4 and box[3] <= height
        if inside and not any(_overlap(box, other) for other in boxes):
            boxes.append(box)
            return left, middle
    return None


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


# -- from a chart to SVG -------------------------------------------------------------------------------


def _rendered(drawn: Plot) -> str:
    padding = {"left": drawn.left, "right": drawn.right, "top": drawn.top, "bottom": drawn.bottom}
    words = [layer for layer in drawn.layers if isinstance(layer, Words)]
    charts = [layer for layer in drawn.layers if not isinstance(layer, Words)]
    chart = (
        alt.layer(*charts, *_word_layers(words))
        .properties(width=drawn.width, height=drawn.height, padding=padding, autosize="none")
        .configure(font=FONT, background="transparent", aria=False)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor="currentColor",
            titleColor="currentColor",
            domainColor="currentColor",
            tickColor="currentColor",
            gridColor="currentColor",
            gridOpacity=0.14,
            domainOpacity=0.6,
            tickOpacity=0.6,
            labelFontSize=FONT_SIZE,
            titleFontSize=FONT_SIZE,
            titleFontWeight="normal",
            titleOpacity=0.8,
            titlePadding=8,
            labelFlush=False,
        )
    )
    svg: str = vl_convert.vegalite_to_svg(chart.to_dict(validate=False))
    return svg[svg.index("<svg") :]


def _accessible(svg: str, prefix: str, title: str, described: str) -> str:
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'\s(role|aria-[a-z]+)="[^"]*"', "", svg)  # the whole is one image; its parts have no names
    head, body = svg.split(">", 1)
    head = re.sub(r'\sclass="[^"]*"', "", head)
    names = f'<title id="{prefix}-title">{escape(title)}</title><desc id="{prefix}-desc">{escape(described)}</desc>'
    return f'{head} role="img" aria-labelledby="{prefix}-title {prefix}-desc">{names}{body}'


def _with_words(figure: Figure, panel: Panel) -> Plot:
    """A panel with its title above it and its key below."""
    drawn = panel.plot(Canvas(WIDE, alone=True))
    title = f"{figure.title}, {panel.title}" if panel.title else figure.title
    lines = textwrap.wrap(title, 72)
    above, below = 24 * len(lines) + 12, 22 * len(figure.key) + 6 * bool(figure.key)
    x = -drawn.left
    layers = [*drawn.layers]
    layers += [Words(x, -drawn.top - above + 20 + 24 * n, line, bold=True, size=18) for n, line in enumerate(lines)]
    if figure.key:
        places = [drawn.height + drawn.bottom + 10 + 22 * number for number in range(len(figure.key))]
        at: dict[str, Any] = {"x": alt.X("px:Q", scale=None, axis=None), "y": alt.Y("py:Q", scale=None, axis=None)}
        layers.append(points([{"px": x + 6, "py": y} for y in places], figure.key, 75, **at))
        layers += [Words(x + 20, y, mark.label) for y, mark in zip(places, figure.key, strict=True)]
    return Plot(
        layers,
        drawn.width,
        drawn.height,
        left=drawn.left + MARGIN,
        right=drawn.right + MARGIN,
        top=drawn.top + above,
        bottom=drawn.bottom + below + MARGIN,
    )


def _coloured(svg: str) -> str:
    """The light colours in place of the page's variables, on a ground of its own."""
    for name, colour in LIGHT.items():
        svg = svg.replace(f"var(--{name})", colour)
    svg = svg.replace("currentColor", LIGHT["ink"])
    head, body = svg.split(">", 1)
    return f'{head}><rect width="100%" height="100%" fill="{LIGHT["ground"]}"/>{body}'
