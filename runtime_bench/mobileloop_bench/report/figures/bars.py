"""Rows of marks with their name above them: on a phone there is no room for it beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import altair as alt

from mobileloop_bench.report.figures.drawing import Canvas, Plot, Words, elided, text_width
from mobileloop_bench.report.figures.naming import Group, Names
from mobileloop_bench.results.result import Result

STEP, BAR_TOP, BAR_BOTTOM = 44, 21, 36
MOST_ROWS = 16


def height_of(count: int) -> int:
    """Pixels of `count` rows."""
    return STEP * count


def pixels(name: str) -> Any:
    """A y channel in pixels from the top of the plotting area."""
    return alt.Y(f"{name}:Q", axis=None, scale=None)


def place(number: int) -> dict[str, float]:
    """Top, middle and bottom of the marks of row `number`."""
    top = STEP * number
    return {"top": top + BAR_TOP, "middle": top + (BAR_TOP + BAR_BOTTOM) / 2, "bottom": top + BAR_BOTTOM}


def row_names(names: Sequence[tuple[str, str]], width: int) -> list[Words]:
    """(name, value) of each row above its marks, the value at the right."""
    layers = list[Words]()
    for number, (name, value) in enumerate(names):
        middle = STEP * number + 10
        layers.append(Words(0, middle, elided(name, width - text_width(value) - 12)))
        layers.append(Words(width, middle, value, align="right", bold=True))
    return layers


def drawing(
    plot: Callable[[Canvas, Sequence[Result], Names], Plot], group: Group, names: Names
) -> Callable[[Canvas], Plot]:
    """What draws the rows of a panel that are shown."""
    return lambda canvas: plot(canvas, group.rows[:MOST_ROWS], names)


def left_out(count: int) -> str:
    """For the caption, where a panel has more rows than it shows."""
    return f" The first {MOST_ROWS} of each panel are drawn; the table has all." if count > MOST_ROWS else ""
