"""Decode time against loops, between the physical limit and what the same depth costs without sharing."""

from __future__ import annotations

from collections.abc import Sequence
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
    label_boxes,
    plot,
    points,
    text_width,
    values,
    x_axis,
    y_axis,
)
from mobileloop_bench.report.figures.naming import Group, Names
from mobileloop_bench.results.result import Result
from mobileloop_bench.writing.units import counted, figure

LEFT = 40
DIRECT = 18  # longest label, in characters, that stands beside its line
UNSHARED_TOLERANCE = 0.02  # of executed bytes against another artifact's unique bytes


def decode_against_loops(rows: Sequence[Result], names: Names) -> Figure | None:
    """One panel per thread count, depth and number of sequences."""
    groups = [_Curves(group, names) for group in names.groups(rows)]
    if not groups:
        return None
    marks = names.marks(rows)
    direct = all(len(mark.label) <= DIRECT for mark in marks)
    panels = [Panel(one.group.title, one.described(), one.drawing(direct)) for one in groups]
    table = Table(
        ("configuration", "median", "p10 to p90", "loop tax", "physical limit"),
        [
            (
                names.full_name(row),
                figure(row.median_ms, "ms"),
                f"{figure(row.p10_ms)} to {figure(row.p90_ms)} ms",
                figure(row.loop_tax),
                figure(_limit(row), "ms"),
            )
            for row in rows
        ],
    )
    return Figure(
        "loops",
        "Decode time against loops",
        _finding(groups),
        _caption(groups),
        panels,
        table,
        () if direct else marks,
    )


class _Curves:
    """What one panel draws."""

    def __init__(self, group: Group, names: Names) -> None:
        self.group, self.names = group, names
        by_series: dict[Any, list[Result]] = {}
        for row in sorted(group.rows, key=lambda row: row.loops):
            by_series.setdefault(names.key(row), []).append(row)
        looped = [series for series in by_series.values() if series[0].loops == 1 and series[-1].loops > 1]
        self.fastest = min(looped, key=lambda series: series[0].median_ms or 0.0, default=[])
        self.unshared = self._unshared(by_series)
        measured = {names.key(row) for row in self.unshared.values()}
        self.series = [series for key, series in by_series.items() if key not in measured]

    def _unshared(self, by_series: dict[Any, list[Result]]) -> dict[int, Result]:
        """By loops of the fastest series: the artifact that reads as many bytes without looping."""
        if not self.fastest:
            return {}
        first, found = self.fastest[0], {}
        for looped in self.fastest[1:]:
            for series in by_series.values():
                row = series[0]
                like = (row.runtime, row.quantization, row.peer) == (first.runtime, first.quantization, None)
                once = len(series) == 1 and row.loops == 1
                bytes_known = row.unique_bytes and looped.executed_bytes
                if like and once and bytes_known and _near(row.unique_bytes or 0, looped.executed_bytes or 1):
                    found[looped.loops] = row
        return found

    def deeper(self) -> list[tuple[int, float, bool]]:
        """(loops, ms, measured) of the unshared model."""
        if not self.fastest:
            return []
        first = self.fastest[0]
        points = [(1, first.median_ms or 0.0, True)]
        for row in self.fastest[1:]:
            held = self.unshared.get(row.loops)
            if held is not None and held.median_ms is not None:
                points.append((row.loops, held.median_ms, True))
            else:
                points.append((row.loops, (first.median_ms or 0.0) * _times(first, row), False))
        return points

    def described(self) -> str:
        told = [
            f"{self.names.mark(series[0]).label}: "
            + ", ".join(f"{counted(row.loops, 'loop')} {figure(row.median_ms, 'ms')}" for row in series)
            for series in self.series
        ]
        unshared = [f"{n} {figure(ms, 'ms')} {'measured' if seen else 'computed'}" for n, ms, seen in self.deeper()[1:]]
        if unshared:
            told.append(f"unshared at the depth of loops {', '.join(unshared)}")
        return f"Line chart of ms per decoded token against loops. {'; '.join(told)}."

    def drawing(self, direct: bool) -> Any:
        return lambda canvas: self._plot(canvas, direct)

    def _plot(self, canvas: Canvas, direct: bool) -> Plot:
        deeper = self.deeper()
        limits = [(row.loops, limit) for row in self.fastest if (limit := _limit(row)) is not None]
        own = [row.median_ms or 0.0 for series in self.series for row in series]
        highest = max([*own, *(row.p90_ms or 0.0 for row in self.group.rows)], default=1.0)
        top = 1.06 * max([highest, *(ms for _, ms, _ in deeper)])
        loops = sorted({row.loops for series in self.series for row in series} | {n for n, _, _ in deeper})
        height = 250 if canvas.narrow else 330
        ends = self._ends(direct, deeper, limits, loops)
        right = round(max((text_width(said) for said, *_ in ends), default=0)) + 16
        x = alt.X(
            "loops:Q",
            axis=x_axis("loops", values=loops, format="d"),
            scale=alt.Scale(domain=_domain(loops), nice=False),
        )
        y = alt.Y("ms:Q", axis=y_axis(), scale=alt.Scale(domain=[0, top], nice=False))
        layers = [*_references(deeper, limits, x, y)]
        shown = [row for series in self.series for row in series]
        marks = [self.names.mark(row) for row in shown]
        records = [
            {"loops": row.loops, "ms": row.median_ms, "p10": row.p10_ms, "p90": row.p90_ms, "colour": mark.colour}
            | {"series": mark.label}
            for row, mark in zip(shown, marks, strict=True)
        ]
        base = values(records).encode(x=x, color=coloured())
        spread = base.transform_filter("isValid(datum.p10) && isValid(datum.p90)")
        layers.append(base.mark_line(strokeWidth=2.5).encode(y=y, detail="series:N"))
        layers.append(spread.mark_rule(strokeWidth=2, opacity=0.55).encode(y=alt.Y("p10:Q"), y2="p90:Q"))
        layers.append(points(records, marks, x=x, y=y))
        beside = self._beside(canvas.width - LEFT - right, height, loops, top) if direct else []
        places = apart([height * (1 - ms / top) for _, ms, _ in ends], 0, height, LINE)

        def drawn(width: int) -> list[Any]:
            return [*layers, *beside] + [
                Words(width + 8, place, said, colour=colour, bold=colour != "currentColor")
                for (said, _, colour), place in zip(ends, places, strict=True)
            ]

        return plot(canvas, height, drawn, unit="ms per decoded token", left=LEFT, right=right)

    def _beside(self, width: int, height: int, loops: Sequence[int], top: float) -> list[Words]:
        """Labels of the series that are one point, next to it."""
        low, high = _domain(loops)

        def place(row: Result) -> tuple[float, float]:
            return width * (row.loops - low) / (high - low), height * (1 - (row.median_ms or 0.0) / top)

        single = [series[0] for series in self.series if len(series) == 1 and len(loops) > 1]
        shown = [place(row) for series in self.series for row in series if row not in single]
        taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in shown]
        marks = [self.names.mark(row) for row in single]
        wanted = [(*place(row), mark.label) for row, mark in zip(single, marks, strict=True)]
        found = zip(marks, label_boxes(wanted, width + 60, height, taken), strict=True)
        return [Words(*at, mark.label, colour=mark.colour, bold=True) for mark, at in found if at is not None]

    def _ends(
        self,
        direct: bool,
        deeper: Sequence[tuple[int, float, bool]],
        limits: Sequence[tuple[int, float]],
        loops: Sequence[int],
    ) -> list[tuple[str, float, str]]:
        """(words, ms, colour) beside the right end of each line."""
        ends = []
        if direct:
            lines = [series for series in self.series if len(series) > 1 or len(loops) == 1]
            marks = [(self.names.mark(series[0]), series[-1]) for series in lines]
            ends += [(mark.label, row.median_ms or 0.0, mark.colour) for mark, row in marks]
        if len(deeper) > 1:
            _, ms, seen = deeper[-1]
            ends += [("unshared,", ms, "currentColor"), ("measured" if seen else "computed", ms, "currentColor")]
        if len(limits) > 1:
            ends.append(("limit", limits[-1][1], "currentColor"))
        return ends


def _references(
    deeper: Sequence[tuple[int, float, bool]], limits: Sequence[tuple[int, float]], x: Any, y: Any
) -> list[Any]:
    layers = []
    if len(deeper) > 1:
        base = values([{"loops": n, "ms": ms, "measured": seen} for n, ms, seen in deeper]).encode(x=x, y=y)
        layers.append(base.mark_line(color="currentColor", strokeWidth=2, strokeDash=[1, 4], strokeCap="round"))
        ringed = base.transform_filter("datum.measured && datum.loops > 1")
        layers.append(ringed.mark_point(size=90, color="currentColor", filled=False, strokeWidth=2, opacity=1))
    if limits:
        base = values([{"loops": n, "ms": ms} for n, ms in limits]).encode(x=x, y=y)
        layers.append(base.mark_line(color="currentColor", strokeWidth=1.5, strokeDash=[6, 4]))
        if len(limits) == 1:
            layers.append(base.mark_tick(color="currentColor", thickness=2, size=24, orient="horizontal"))
    return layers


def _domain(loops: Sequence[int]) -> list[float]:
    """Of the loops' axis."""
    return [min(loops) - 0.15, max(loops) + (0.15 if len(loops) > 1 else 0.85)]


def _near(unique_bytes: int, executed_bytes: int) -> bool:
    return abs(unique_bytes / executed_bytes - 1) <= UNSHARED_TOLERANCE


def _limit(row: Result) -> float | None:
    return 1000 / row.ceiling_tokens_per_s if row.ceiling_tokens_per_s else None


def _times(first: Result, row: Result) -> float:
    """How many times the bytes of one loop the unshared model of that depth moves; the loops where unknown."""
    one, many = first.executed_bytes, row.executed_bytes
    if one is None or many is None or first.kv_bytes is None or row.kv_bytes is None or one + first.kv_bytes == 0:
        return float(row.loops)
    return (many + row.kv_bytes) / (one + first.kv_bytes)


def _caption(groups: Sequence[_Curves]) -> str:
    """What is drawn and nothing else."""
    told = "Medians, with bars from the 10th to the 90th percentile."
    if any(row.peer for one in groups for row in one.group.rows):
        told += " Hollow points are other projects' runtimes."
    if not any(one.fastest for one in groups):
        return f"{told} No series has one loop and more, so there is no line to compare with."
    return told + (
        " For the fastest series: the dashed limit is the time that reading its unique and KV bytes once takes at the "
        "measured read bandwidth; dotted is the same depth unshared, computed from the bytes of that deeper model "
        "(about n times one loop), or measured where a result is of that depth (ringed)."
    )


def _finding(groups: Sequence[_Curves]) -> str:
    told = [one for one in groups if one.fastest]
    if not told:
        fastest = min((row for one in groups for row in one.group.rows), key=lambda row: row.median_ms or 0.0)
        return f"A token takes {figure(fastest.median_ms, 'ms')} at best."
    curves = max(told, key=lambda one: one.group.threads)
    first, last = curves.fastest[0], curves.fastest[-1]
    tax = (last.median_ms or 0.0) / (first.median_ms or 1.0)
    _, unshared, seen = curves.deeper()[-1]
    how = "takes" if seen else "would take"
    return (
        f"{last.loops} loops take {figure(tax)} times as long as one on {curves.group.title}; without sharing, that "
        f"depth {how} {figure(unshared / (first.median_ms or 1.0))} times as long."
    )
