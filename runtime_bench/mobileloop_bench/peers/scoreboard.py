"""From a document of the recipe to the table: per round a figure of ours, a figure of the peer and their ratio.

A ratio is taken inside a round, whose two figures were measured within a minute of each other, and the table shows the
median of these ratios and their spread: dividing two medians would throw the pairing away. Where enough rounds found
the cores equally fast for both, only those count.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mobileloop_bench.peers.recipe import BUSY, STREAM, THREADS
from mobileloop_bench.results.bootstrap import LEAST_ROUNDS, as_rounds
from mobileloop_bench.results.document import Document
from mobileloop_bench.results.result import SKIPPED, Phase, Result
from mobileloop_bench.results.speed import alike
from mobileloop_bench.results.table import short_reasons
from mobileloop_bench.writing.units import beside, counted

Unit = Literal["tokens/s", "GB/s", "ms/token", "ms", "MB"]


@dataclass(frozen=True)
class Place:
    """Which row of a document; one of ours where `peer` is None."""

    peer: str | None = None
    threads: int = THREADS
    loops: int = 1
    whole_stack: bool = False
    stream: str = "off"
    busy: int = 0

    def holds(self, row: Result, phase: Phase) -> bool:
        """Whether a row is the one."""
        swept = (row.phase, row.threads, row.loops, row.stream or "off", row.busy)
        whole_stack = (row.schedule or "").startswith("all:")
        return (row.peer.name if row.peer else None) == self.peer and (*swept, whole_stack) == (
            *(phase, self.threads, self.loops, self.stream, self.busy),
            self.whole_stack,
        )


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        label: what is measured.
        over: what it is compared with.
        unit: of ours and the other's; more is better of what is said per second.
        ours: our row, of a `phase`; `other` the other one, None where our figure is itself the result.
        target: what was aimed at; None for a line that only informs.
    """

    label: str
    over: str
    unit: Unit
    ours: Place
    other: Place | None = None
    target: float | None = None
    phase: Phase = "decode"

    @property
    def higher(self) -> bool:
        """Whether more is better."""
        return self.unit in ("tokens/s", "GB/s")

    @property
    def compared(self) -> bool:
        """Whether it is a ratio; GB/s are over the read bandwidth."""
        return self.other is not None or self.unit == "GB/s"


@dataclass(frozen=True)
class Row:
    """A figure over all rounds; `reason` where there is none.

    Attributes:
        doubts: the names of what makes either of its two figures not valid.
    """

    figure: Figure
    ours: float | None = None
    other: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    doubts: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the target; None without one."""
        if self.ratio is None or self.figure.target is None:
            return None
        return self.ratio >= self.figure.target if self.figure.higher else self.ratio <= self.figure.target


def figures(document: Document) -> list[Figure]:
    """Every line, in a fixed order; llama.cpp's once per build."""
    names = list(dict.fromkeys(row.peer.name for row in document.results if row.peer))
    llamas = [name for name in names if name.startswith("llama.cpp")]
    cores = max((row.threads for row in document.results if row.peer is None), default=THREADS)
    prompt = document.settings.prompt_tokens if document.settings else 0

    def each(label: str, over: str, ours: Place, target: float | None, phase: Phase = "decode") -> list[Figure]:
        """A line per build of llama.cpp, in the place of ours."""
        return [Figure(label, f"{name}{over}", "tokens/s", ours, _of(name, ours), target, phase) for name in llamas]

    two = counted(THREADS, "thread")
    lines = [
        line
        for count in (1, THREADS)
        for line in each(f"decode, {counted(count, 'thread')}", "", Place(threads=count), 1.4)
    ]
    lines += [
        Figure(f"decode, {two}", name, "tokens/s", Place(), Place(name), 2.2) for name in names if name not in llamas
    ]
    lines += each(f"prefill of {prompt} tokens, {two}", "", Place(), 1.0, "prefill")
    lines += each(f"every block twice in a row, {two}", ", every block written twice", Place(loops=2), 2.2)
    for count in (1, THREADS):
        ours = Place(threads=count, loops=2, whole_stack=True)
        lines += each(f"the whole stack twice, {counted(count, 'thread')}", ", its own loop", ours, None)
    for loops, target in ((2, 1.25), (4, 1.9)):
        ours, once = Place(threads=cores, loops=loops), Place(threads=cores)
        lines.append(Figure(f"loop tax of {loops}, all cores", "1 loop", "ms/token", ours, once, target))
    streamed = Place(loops=2, stream=STREAM)
    label = "loop tax of 2, one thread computing and one streaming"
    lines.append(Figure(label, "1 loop, 1 thread", "ms/token", streamed, Place(threads=1), 1.10))
    for count in (1, THREADS):
        label = f"GB/s read in decode, {counted(count, 'thread')}"
        lines.append(Figure(label, "read bandwidth", "GB/s", Place(threads=count), None, 0.80))
    lines += [
        Figure("anonymous memory beyond the KV cache", "", "MB", Place(), None, 25),
        Figure("load to first token, warm file cache", "", "ms", Place(), None, 60, "first_token"),
        Figure(f"decode, {two} {beside(BUSY)}", "quiet", "tokens/s", Place(busy=BUSY), Place(), 0.35),
    ]
    for name in llamas:
        label = f"{name}, {two} {beside(BUSY)}"
        lines.append(Figure(label, "quiet", "tokens/s", Place(name, busy=BUSY), Place(name)))
    return lines


def _of(name: str, ours: Place) -> Place:
    return Place(name, ours.threads, ours.loops, ours.whole_stack)


def rows(document: Document) -> list[Row]:
    """Every line with its figures."""
    return [_row(figure, document) for figure in figures(document)]


def _row(figure: Figure, document: Document) -> Row:
    mine, theirs = _found(document, figure.ours, figure.phase), None
    if figure.other is not None:
        theirs = _found(document, figure.other, figure.phase)
    ours = [] if mine is None else _rounds(figure.unit, mine)
    others = [] if theirs is None else _rounds(figure.unit, theirs)
    if figure.unit == "GB/s" and mine is not None and mine.ceiling_gbps:
        others = [mine.ceiling_gbps] * len(ours)
    if figure.compared:
        count = min(len(ours), len(others))
        kept = _compared(mine, theirs, count)
        ours, others = [ours[number] for number in kept], [others[number] for number in kept]
    ratios = [one / other for one, other in zip(ours, others, strict=True)] if figure.compared else ours
    if not ratios:
        return Row(figure, reason=_reason(figure, document, mine, theirs))
    told = [reason for row in (mine, theirs) if row for reason in row.reasons if not reason.endswith("as asked")]
    return Row(
        figure,
        statistics.median(ours),
        statistics.median(others) if others else None,
        statistics.median(ratios),
        float(np.percentile(ratios, 10)),
        float(np.percentile(ratios, 90)),
        len(ratios),
        tuple(short_reasons(told)),
    )


def _found(document: Document, place: Place, phase: Phase) -> Result | None:
    return next((row for row in document.results if place.holds(row, phase) and not row.skipped), None)


def _rounds(unit: Unit, row: Result) -> list[float]:
    """The row's figure in every round: of a decode, from the time of the whole of it."""
    if unit == "MB":
        return _megabytes(row)
    times = [float(time) for time in as_rounds(row.samples_ms, row.samples_per_round or 1).mean(axis=1)]
    if unit in ("ms", "ms/token"):
        return times
    at_median = row.tokens_per_s if unit == "tokens/s" else row.read_gbps
    if at_median is None or row.median_ms is None:
        return []
    return [at_median * row.median_ms / time for time in times]


def _compared(mine: Result | None, theirs: Result | None, count: int) -> Sequence[int]:
    """The rounds of `count` in which the cores were as fast for both, where there are enough of them; else all."""
    if mine is not None and theirs is not None:
        same = [number for number in alike(mine.speeds, theirs.speeds) if number < count]
        if len(same) >= LEAST_ROUNDS:
            return same
    return range(count)


def _megabytes(row: Result) -> list[float]:
    """One figure of one process, KV bytes taken off."""
    memory = row.memory
    if memory is None or memory.delta_anonymous_bytes is None or memory.kv_bytes is None:
        return []
    return [(memory.delta_anonymous_bytes - memory.kv_bytes) / 1e6]


def _reason(figure: Figure, document: Document, mine: Result | None, theirs: Result | None) -> str:
    """Why a line has no figure: the first reason found."""
    for place, row in ((figure.ours, mine), (figure.other, theirs)):
        if place is None or (row is not None and row.samples_ms):
            continue
        for one in document.results:
            same = (one.peer.name if one.peer else None, one.threads) == (place.peer, place.threads)
            if same and one.skipped:
                return next(reason for reason in one.reasons if reason.startswith(SKIPPED)).removeprefix(SKIPPED)
    return "not measured"


def failures(document: Document) -> Sequence[str]:
    """What ended a peer's turns early, each once."""
    found = {
        f"{row.peer.name}: {reason}"
        for row in document.results
        for reason in row.reasons
        if row.peer and reason.startswith("failed")
    }
    return sorted(found)
