"""The results as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mobileloop_bench.results import Document, Result
from mobileloop_bench.words import counted, figure, megabytes

ARTIFACT_WIDTH = 34


def print_results(console: Console, document: Document) -> None:
    """One line per configuration; no tokens/s without its GB/s, and no figure without its doubts."""
    table = Table(title="Measured", title_justify="left")
    widest = max((len(row.artifact) for row in document.results), default=0)
    table.add_column("artifact", overflow="fold", min_width=min(widest, ARTIFACT_WIDTH))
    for name in ("loops", "threads", "size", "anonymous", "load ms", "prefill tok/s", "decode tok/s", "GB/s"):
        table.add_column(name, justify="right")
    for name in ("of ceiling", "loop tax"):
        table.add_column(name, justify="right")
    table.add_column("valid", overflow="fold")
    rows = {(row.artifact, row.loops, row.threads, row.phase): row for row in document.results}
    for row in document.results:
        if row.phase == "decode" and not row.skipped:
            key = (row.artifact, row.loops, row.threads)
            table.add_row(*_cells(row, rows.get((*key, "first_token")), rows.get((*key, "prefill"))))
    console.print(table)
    for row in document.results:
        if row.skipped:
            where = f"{row.artifact}, {counted(row.loops, 'loop')}, {counted(row.threads, 'thread')}"
            console.print(escape(f"{where}: {'; '.join(row.reasons)}."), highlight=False)
    console.print(
        "GB/s is (unique + KV bytes) / decode time; anonymous is private memory added in a process of its own.",
        highlight=False,
    )


def short_reasons(reasons: Sequence[str]) -> list[str]:
    """The reasons' names alone; the JSON and the report have them in full."""
    return [reason.partition(":")[0] for reason in reasons]


def share(value: float | None) -> str:
    """A ratio as a percentage, or unknown."""
    return figure(None) if value is None else f"{100 * value:.0f}%"


def _cells(decode: Result, load: Result | None, prefill: Result | None) -> list[str]:
    memory = decode.memory.delta_anonymous_bytes if decode.memory else None
    tax = "unknown" if decode.loop_tax is None else f"{decode.loop_tax:.2f}"
    return [
        escape(decode.artifact),
        str(decode.loops),
        str(decode.threads),
        megabytes(decode.size_on_disk_bytes),
        megabytes(memory),
        figure(load.median_ms if load else None),
        figure(prefill.tokens_per_s if prefill else None),
        figure(decode.tokens_per_s),
        figure(decode.read_gbps),
        share(decode.ceiling_share),
        tax,
        "yes" if decode.valid else escape("no: " + ", ".join(short_reasons(decode.reasons))),
    ]
