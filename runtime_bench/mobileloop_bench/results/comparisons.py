"""A comparison on the screen, and as a table for a pull request."""

from __future__ import annotations

from collections import Counter

from rich.console import Console

from mobileloop.console import print_text
from mobileloop_bench.results.compare import Comparison, Report, title
from mobileloop_bench.writing.markdown import markdown_table
from mobileloop_bench.writing.table import Column, Table, print_table
from mobileloop_bench.writing.units import figure

_ORDER = ("regression", "improvement", "no change", "undecided", "not comparable")
_MANY = {"regression": "regressions", "improvement": "improvements"}


def print_comparisons(console: Console, report: Report) -> None:
    """The table, doubts as notes below it, and what was found."""
    name, *numbers, verdict, doubts = _headers(report)
    columns = [Column(name, left=True, name=True), *map(Column, numbers)]
    table = Table("", [*columns, Column(verdict, left=True), Column(doubts, left=True)])
    for one in report.comparisons:
        table.rows.append([title(one), *_figures(one), one.verdict, table.notes.mark(one.reasons or one.notes)])
    print_table(console, table)
    print_text(console, *_sentences(report))


def markdown(report: Report) -> str:
    """The same in Markdown, with the doubts in their rows."""
    rows = [[title(o), *_figures(o), o.verdict, "; ".join(o.reasons or o.notes)] for o in report.comparisons]
    return "\n".join([*markdown_table(_headers(report), rows), "", *_sentences(report)]) + "\n"


def _headers(report: Report) -> list[str]:
    name = report.statistic
    return ["configuration", f"before {name} ms", f"after {name} ms", "medians ms", "ratio", "verdict", "doubts"]


def _figures(one: Comparison) -> list[str]:
    if one.ratio is None:
        return [""] * 4
    return [
        figure(one.before_ms),
        figure(one.after_ms),
        f"{figure(one.before_median_ms)} / {figure(one.after_median_ms)}",
        f"{one.ratio:.3f} ({one.low:.3f} to {one.high:.3f})",
    ]


def _sentences(report: Report) -> list[str]:
    counts: Counter[str] = Counter(one.verdict for one in report.comparisons)
    found = ", ".join(f"{n} {v if n == 1 else _MANY.get(v, v)}" for v in _ORDER if (n := counts[v]))
    same = "in the same rounds" if report.interleaved else f"drift between runs {report.drift:.1%}"
    rule = f"threshold {report.threshold:.1%}, confidence {report.confidence:.1%} over all, {same}"
    return [*(f"Note: {note}." for note in report.notes), f"Found: {found} ({rule})."]
