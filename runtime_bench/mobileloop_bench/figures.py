"""The report's figures, one function each: static SVG, drawn here, so that the page needs no script.

Text and axes take `currentColor` and the series CSS variables of the page, so one drawing serves light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import altair as alt

from mobileloop_bench.results import Document, Result
from mobileloop_bench.words import counted, figure

WIDTH, FONT = 410, 14
# Resolved by the page's style sheet; SVG takes CSS variables wherever it takes a colour.
SERIES = [f"var(--series-{number})" for number in range(1, 9)]


@dataclass(frozen=True)
class Figure:
    """One drawing: `svg` for inline use, `alt_text` for those who do not see it, `caption` below it."""

    title: str
    alt_text: str
    caption: str
    svg: str


def figures(documents: Sequence[Document]) -> list[Figure]:
    """Every figure that the measured rows allow."""
    rows = [row for document in documents for row in document.results]
    decode = [row for row in rows if row.phase == "decode" and row.median_ms is not None]
    counts = sorted({row.threads for row in decode})
    drawn = [decode_against_loops(decode, threads) for threads in counts]
    read = [row for row in decode if row.read_gbps is not None]
    drawn += [bandwidth_against_ceiling(read, threads) for threads in counts if any(r.threads == threads for r in read)]
    return drawn


def decode_against_loops(rows: Sequence[Result], threads: int) -> Figure:
    """Decode time per token against loops on `threads` threads, with the time that the unique bytes alone take."""
    rows = sorted((row for row in rows if row.threads == threads), key=lambda row: row.loops)
    data = [record for row in rows for record in _decode_records(row)]
    loops = sorted({row.loops for row in rows})
    artifacts = list(dict.fromkeys(record["artifact"] for record in data))
    base = alt.Chart({"values": data}).encode(
        x=alt.X(
            "loops:Q",
            title="loops",
            axis=alt.Axis(values=loops, format="d", grid=False),
            scale=alt.Scale(domain=[min(loops) - 0.3, max(loops) + 0.3], nice=False),
        ),
        color=alt.Color(
            "artifact:N", title=None, sort=artifacts, scale=alt.Scale(domain=artifacts, range=_colours(artifacts))
        ),
    )
    time = alt.Y("ms:Q", title="ms per decoded token", scale=alt.Scale(zero=True))
    kind = alt.StrokeDash(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=["measured", "physical limit"], range=[[1, 0], [5, 4]]),
        legend=alt.Legend(symbolStrokeColor="currentColor"),
    )
    lines = base.mark_line(strokeWidth=2).encode(y=time, strokeDash=kind)
    measured = base.transform_filter("datum.kind === 'measured'")
    spread = measured.mark_rule(strokeWidth=2, opacity=0.5).encode(y=alt.Y("p10:Q"), y2="p90:Q")
    points = measured.mark_point(size=60, filled=True, opacity=1).encode(y=time)
    title = f"Decode time against loops, {counted(threads, 'thread')}"
    told = "; ".join(
        f"{row.artifact} with {counted(row.loops, 'loop')} takes {figure(row.median_ms, 'ms')}" for row in rows
    )
    return _drawn(
        alt.layer(lines, spread, points).properties(width=WIDTH, height=260),
        title,
        f"Line chart of ms per decoded token: {told}.",
        "Points are medians, bars run from the 10th to the 90th percentile of all decoded tokens. The dashed physical "
        "limit is the time that reading the unique and the KV bytes once takes at the measured read bandwidth.",
    )


def bandwidth_against_ceiling(rows: Sequence[Result], threads: int) -> Figure:
    """Achieved GB/s of every configuration on `threads` threads, with a tick at the measured read bandwidth."""
    rows = [row for row in rows if row.threads == threads]
    data = [
        {"name": _bar_name(row), "artifact": row.artifact, "gbps": row.read_gbps, "ceiling": row.ceiling_gbps}
        for row in rows
    ]
    artifacts = list(dict.fromkeys(row.artifact for row in rows))
    furthest = max(max(row.read_gbps or 0, row.ceiling_gbps or 0) for row in rows)
    # The name stands above its bar, not beside it: on a phone's width there is no room beside it.
    name_axis = alt.Axis(labelLimit=WIDTH, labelAlign="left", labelOffset=-13, labelPadding=-4, ticks=False)
    base = alt.Chart({"values": data}).encode(y=alt.Y("name:N", sort=None, title=None, axis=name_axis))
    bars = base.mark_bar(height=13, yOffset=8).encode(
        x=alt.X(
            "gbps:Q",
            title="GB/s read while decoding",
            scale=alt.Scale(domain=[0, furthest * 1.05], nice=False),
            axis=alt.Axis(tickCount=6),
        ),
        color=alt.Color("artifact:N", legend=None, scale=alt.Scale(domain=artifacts, range=_colours(artifacts))),
    )
    ceiling = (
        base.transform_filter("isValid(datum.ceiling)")
        .mark_tick(thickness=3, size=20, color="currentColor", yOffset=8, opacity=1)
        .encode(x="ceiling:Q")
    )
    return _drawn(
        alt.layer(bars, ceiling).properties(width=WIDTH, height=alt.Step(44)),
        f"Bandwidth against the ceiling, {counted(threads, 'thread')}",
        f"Bar chart of GB/s read while decoding: {'; '.join(_bar_name(row) for row in rows)}.",
        "Bars are (unique + KV bytes) / decode time, the tick is the read bandwidth measured with as many threads. A "
        "bar beyond its tick means that the weights came from a cache.",
    )


# -- shared by the figures -----------------------------------------------------------------------------


def _decode_records(row: Result) -> list[dict[str, Any]]:
    shared = {"artifact": row.artifact, "loops": row.loops}
    records = [{**shared, "kind": "measured", "ms": row.median_ms, "p10": row.p10_ms, "p90": row.p90_ms}]
    if row.ceiling_tokens_per_s:
        records.append({**shared, "kind": "physical limit", "ms": 1000 / row.ceiling_tokens_per_s})
    return records


def _bar_name(row: Result) -> str:
    share = "" if row.ceiling_share is None else f", {100 * row.ceiling_share:.0f}%"
    return f"{row.artifact}, {counted(row.loops, 'loop')}: {figure(row.read_gbps, 'GB/s')}{share}"


def _colours(artifacts: Sequence[str]) -> list[str]:
    return [SERIES[number % len(SERIES)] for number in range(len(artifacts))]


def _drawn(chart: alt.LayerChart, title: str, alt_text: str, caption: str) -> Figure:
    styled = (
        chart.configure(font="sans-serif", background="transparent", padding=4, aria=False)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor="currentColor",
            titleColor="currentColor",
            domainColor="currentColor",
            tickColor="currentColor",
            gridColor="currentColor",
            gridOpacity=0.15,
            labelFontSize=FONT,
            titleFontSize=FONT,
            titleFontWeight="normal",
        )
        .configure_legend(
            orient="bottom",
            direction="vertical",
            labelColor="currentColor",
            labelFontSize=FONT,
            labelLimit=WIDTH,
            symbolStrokeWidth=2,
            symbolOpacity=1,
        )
    )
    buffer = io.StringIO()
    styled.save(buffer, format="svg")
    return Figure(title, alt_text, caption, _accessible(buffer.getvalue(), title, alt_text))


def _accessible(svg: str, title: str, alt_text: str) -> str:
    """One image with a name and a description, ids of its own, and a size that the page decides."""
    prefix = re.sub(r"\W+", "-", title.lower()).strip("-")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    head, body = svg.split(">", 1)
    head = re.sub(r'\s(width|height|class|role|aria-[a-z]+)="[^"]*"', "", head)
    names = f'<title id="{prefix}-title">{escape(title)}</title><desc id="{prefix}-desc">{escape(alt_text)}</desc>'
    return f'{head} role="img" aria-labelledby="{prefix}-title {prefix}-desc">{names}{body}'
