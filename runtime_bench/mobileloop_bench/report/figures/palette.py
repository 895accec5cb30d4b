"""The report's colours, light and dark, and the marks of its series.

The first four series are told apart with every kind of colour blindness (lightness differs as well as hue), and each
has a shape of its own; all text and all marks have the contrast that WCAG AA asks for, which a test computes.
"""

from __future__ import annotations

from dataclasses import dataclass

LIGHT = {
    "ground": "#ffffff",
    "panel": "#f4f5f7",
    "ink": "#16191d",
    "quiet": "#545d68",
    "line": "#d5d9de",
    "doubt": "#8a4b00",
    "good": "#0b6b43",
    "series-1": "#0058a8",
    "series-2": "#c24e00",
    "series-3": "#00806f",
    "series-4": "#8e2c86",
    "series-5": "#6b6400",
    "series-6": "#b3261e",
    "series-7": "#5a4fcf",
    "series-8": "#6b5b4b",
}
DARK = {
    "ground": "#121518",
    "panel": "#1c2024",
    "ink": "#eceef0",
    "quiet": "#a7b0ba",
    "line": "#3a4047",
    "doubt": "#ffb870",
    "good": "#63d6a0",
    "series-1": "#6db5ff",
    "series-2": "#ff9d5c",
    "series-3": "#4fd1be",
    "series-4": "#e078d4",
    "series-5": "#d8cf52",
    "series-6": "#ff8a80",
    "series-7": "#aaa3ff",
    "series-8": "#cdb9a5",
}
COLOURS = [f"var(--{name})" for name in LIGHT if name.startswith("series-")]
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")


@dataclass(frozen=True)
class Mark:
    """How a series looks; `hollow` marks are of other projects' runtimes."""

    label: str
    colour: str
    shape: str = "circle"
    hollow: bool = False

    @property
    def path(self) -> str:
        """Its shape inside a square of 12 by 12, for the key on the page."""
        return {
            "circle": "M6 1.5a4.5 4.5 0 1 1 0 9a4.5 4.5 0 1 1 0-9z",
            "square": "M2 2h8v8H2z",
            "triangle-up": "M6 1.5L11 10.5H1z",
            "diamond": "M6 .5L11 6L6 11.5L1 6z",
            "triangle-down": "M6 10.5L1 1.5H11z",
            "cross": "M4.2 1h3.6v3.2H11v3.6H7.8V11H4.2V7.8H1V4.2h3.2z",
            "triangle-right": "M10.5 6L1.5 11V1z",
            "triangle-left": "M1.5 6L10.5 1V11z",
        }[self.shape]


def css(colours: dict[str, str]) -> str:
    """The variables of one colour scheme."""
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
