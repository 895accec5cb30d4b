"""Every figure of a run as tables: what the charts leave out is here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mobileloop_bench.results.document import Document
from mobileloop_bench.results.result import Phase, Result
from mobileloop_bench.results.table import share
from mobileloop_bench.writing.units import UNKNOWN, figure, mebibytes, megabytes

Column = tuple[str, Callable[[Result], str]]


@dataclass(frozen=True)
class Line:
    """One row: its name, what it is in small print where that is new, its cells, and whether it is valid."""

    name: str
    small: str
    cells: Sequence[str]
    valid: bool


@dataclass(frozen=True)
class ResultTable:
    """One table; the first column is the artifact, the last one says why a row is not valid."""

    title: str
    headers: Sequence[str]
    lines: Sequence[Line]


def tables(document: Document) -> list[ResultTable]:
    """Decode, prefill, opening, then bytes and memory, counters; a table without a row is left out."""
    rows = document.results
    decode = [row for row in rows if row.phase == "decode"]
    found = [
        _table("Decode", decode, [*_PLACE, *_optional(decode), *_TIME, *_DECODE, *_measured(decode)]),
        _table("Prefill", _of(rows, "prefill"), [*_PLACE, *_optional(rows), *_TIME, ("tokens/s", _tokens)]),
        _table("Opening to the first token", _of(rows, "first_token"), [*_PLACE, *_TIME]),
        _table("Opening", _of(rows, "load"), [*_PLACE, *_TIME]),
        _table("Bytes and memory", _once_per_loops(decode), [("Loops", lambda row: str(row.loops)), *_BYTES]),
    ]
    names = list(dict.fromkeys(name for row in decode for name in row.counters))
    if names:
        counted = [row for row in decode if row.counters]
        columns: list[Column] = [(f"{name} per token", _counter(name)) for name in names]
        found.append(_table("Hardware counters", counted, [*_PLACE, *columns]))
    return [table for table in found if table.lines]


def validity(row: Result) -> str:
    """`yes` with every note, or `no` with every reason and note."""
    told = "; ".join([*row.reasons, *row.notes])
    if row.valid:
        return f"yes; {told}" if told else "yes"
    return f"no: {told or 'no reason given'}"


def _of(rows: Sequence[Result], phase: Phase) -> list[Result]:
    return [row for row in rows if row.phase == phase]


def _table(title: str, rows: Sequence[Result], columns: Sequence[Column]) -> ResultTable:
    lines, seen = [], set[str]()
    for row in rows:
        small = _small(row)
        told = f"{row.artifact}: {small}" in seen
        seen.add(f"{row.artifact}: {small}")
        cells = [*(cell(row) for _, cell in columns), validity(row)]
        lines.append(Line(row.artifact, "" if told else small, cells, row.valid))
    return ResultTable(title, ["Artifact", *(name for name, _ in columns), "Valid"], lines)


def _small(row: Result) -> str:
    peer = " ".join(text for text in (row.peer.version, row.peer.flags) if text) if row.peer else ""
    parts = [
        row.model,
        f"{row.peer.name} (peer) {peer}".strip() if row.peer else row.runtime,
        row.quantization,
        row.schedule or "schedule unknown",
        "random weights" if row.random_weights else "",
    ]
    return ", ".join(part for part in parts if part)


def _optional(rows: Sequence[Result]) -> list[Column]:
    """Depth, sequences and streaming, where they tell anything."""
    columns: list[Column] = []
    if any(row.depth for row in rows):
        columns.append(("Depth", lambda row: str(row.depth)))
    if any(row.sequences > 1 for row in rows):
        columns.append(("Sequences", lambda row: str(row.sequences)))
    if any(row.stream for row in rows):
        columns.append(("Stream", lambda row: row.stream or UNKNOWN))
    return columns


def _measured(rows: Sequence[Result]) -> list[Column]:
    """Prediction and energy, where there are any."""
    columns: list[Column] = []
    if any(row.prediction for row in rows):
        columns.append(("Predicted ms", lambda row: figure(row.prediction.ms if row.prediction else None)))
    if any(row.joules_per_token is not None for row in rows):
        columns.append(("J/token", lambda row: figure(row.joules_per_token)))
    return columns


def _once_per_loops(rows: Sequence[Result]) -> list[Result]:
    """Bytes and memory do not depend on the threads: one row for each artifact, loop count and depth."""
    found = {(row.artifact, row.runtime, row.loops, row.depth, row.sequences): row for row in reversed(rows)}
    return list(reversed(found.values()))


def _counter(name: str) -> Callable[[Result], str]:
    return lambda row: figure(row.counters.get(name))


def _tokens(row: Result) -> str:
    return figure(row.tokens_per_s)


def _interval(row: Result) -> str:
    """What holds the median with 95% confidence."""
    if row.median_low_ms is None or row.median_high_ms is None:
        return UNKNOWN
    return f"{figure(row.median_low_ms)}–{figure(row.median_high_ms)}"


def _spread(row: Result) -> str:
    if row.p10_ms is None or row.p90_ms is None:
        return UNKNOWN
    return f"{figure(row.p10_ms)}–{figure(row.p90_ms)}"


_PLACE: list[Column] = [("Loops", lambda row: str(row.loops)), ("Threads", lambda row: str(row.threads))]
_TIME: list[Column] = [
    ("Samples", lambda row: str(len(row.samples_ms))),
    ("Median ms", lambda row: figure(row.median_ms)),
    ("Interval ms", _interval),
    ("p10–p90 ms", _spread),
    ("p99 ms", lambda row: figure(row.p99_ms)),
]
_DECODE: list[Column] = [
    ("Tokens/s", _tokens),
    ("GB/s", lambda row: figure(row.read_gbps)),
    ("Of ceiling", lambda row: share(row.ceiling_share)),
    ("Executed GB/s", lambda row: figure(row.executed_gbps)),
    ("Loop tax", lambda row: figure(row.loop_tax)),
]
_BYTES: list[Column] = [
    ("Unique", lambda row: megabytes(row.unique_bytes)),
    ("Executed", lambda row: megabytes(row.executed_bytes)),
    ("KV", lambda row: megabytes(row.kv_bytes)),
    ("Activations", lambda row: megabytes(row.activation_bytes)),
    ("Block", lambda row: mebibytes(row.block_bytes)),
    ("On disk", lambda row: megabytes(row.size_on_disk_bytes)),
    ("Anonymous", lambda row: megabytes(row.memory.delta_anonymous_bytes if row.memory else None)),
    ("Mapped", lambda row: megabytes(row.memory.delta_file_bytes if row.memory else None)),
    ("Swapped", lambda row: megabytes(row.memory.swap_bytes if row.memory else None)),
    ("Peak", lambda row: megabytes(row.memory.peak_bytes if row.memory else None)),
]
