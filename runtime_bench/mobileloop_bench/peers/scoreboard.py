"""From raw samples to the table: per round a figure of ours, a figure of the peer and their ratio.

A ratio is taken inside a round, whose two figures were measured within a minute of each other, and the table shows the
median of these ratios and their spread: dividing two medians would throw the pairing away.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mobileloop_bench.peers.document import PeersDocument, Round, Sample

MAX_OTHER_CORES = 0.25
MAX_STOLEN_CORES = 0.05


Scale = Callable[[float, Sample], float]


def _as_it_is(value: float, sample: Sample) -> float:
    return value


def _milliseconds(rate: float, sample: Sample) -> float:
    return 1000 / rate


def _gigabytes(rate: float, sample: Sample) -> float:
    return rate * sample.series["bytes_per_token"][0] / 1e9


@dataclass(frozen=True)
class Series:
    """Where a figure comes from: the median of one series of one cell."""

    cell: str
    name: str = "tokens_per_s"
    pick: Callable[[Sequence[float]], float] = statistics.median


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        label: what is measured.
        peer_label: what it is compared with.
        unit: of ours and the peer's.
        ours: our series; `peer` the other one, None where our figure is itself the result.
        target: of the issue; None for a line that only informs.
        higher: whether more is better.
        scale: turns a sample's figure into the unit shown.
        peer_scale: the same for the peer, where it differs.
    """

    label: str
    peer_label: str
    unit: str
    ours: Series
    peer: Series | None = None
    target: float | None = None
    higher: bool = True
    scale: Scale = _as_it_is
    peer_scale: Scale | None = None


@dataclass(frozen=True)
class Row:
    """A figure over all rounds; `reason` where there is none."""

    figure: Figure
    ours: float | None = None
    peer: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    disturbed: int = 0
    reason: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the target; None without one."""
        if self.ratio is None or self.figure.target is None:
            return None
        return self.ratio >= self.figure.target if self.figure.higher else self.ratio <= self.figure.target


def figures(document: PeersDocument) -> list[Figure]:
    """Every line, in the order of the issue; llama.cpp's once per build."""
    everywhere = "decode-2" if document.machine.cores_usable == 2 else "decode-all"
    llamas = [name for name in document.labels if name.startswith("llama-")]

    def label(name: str) -> str:
        return document.labels.get(name, name)

    lines = []
    for threads in (1, 2):
        lines += [
            Figure(
                f"decode, {_threads(threads)}",
                label(name),
                "tokens/s",
                Series(f"ours/decode-{threads}", "loops-1"),
                Series(f"{name}/decode-{threads}"),
                1.4,
            )
            for name in llamas
        ]
    lines += [
        Figure(
            "decode, 2 threads",
            label(name),
            "tokens/s",
            Series("ours/decode-2", "loops-1"),
            Series(f"{name}/decode-2"),
            2.2,
        )
        for name in ("executorch", "genai")
        if name in document.labels
    ]
    lines += [
        Figure(
            "prefill of 128 tokens, 2 threads".replace("128", str(document.settings.prefill_tokens)),
            label(name),
            "tokens/s",
            Series("ours/prefill-2"),
            Series(f"{name}/prefill-2"),
            1.0,
        )
        for name in llamas
    ]
    lines += [
        Figure(
            "every block twice, 2 threads",
            f"{label(name)}, 60 blocks unrolled",
            "tokens/s",
            Series("ours/decode-2", "loops-2"),
            Series(f"{name}/twice-2"),
            2.2,
        )
        for name in llamas
    ]
    lines += [
        _tax(f"loop tax of {loops}, all cores", f"ours/{everywhere}", loops, target)
        for loops, target in ((2, 1.25), (4, 1.9))
    ]
    lines.append(
        Figure(
            "loop tax of 2, one thread computing and one streaming",
            "1 loop, 1 thread",
            "ms/token",
            Series("ours/stream-2", "loops-2"),
            Series("ours/decode-1", "loops-1"),
            1.10,
            higher=False,
            scale=_milliseconds,
        )
    )
    lines += [
        Figure(
            f"GB/s read in decode, {_threads(threads)}",
            "read bandwidth",
            "GB/s",
            Series(f"ours/decode-{threads}", "loops-1"),
            Series("ours/bandwidth", f"threads-{threads}", max),
            0.80,
            scale=_gigabytes,
            peer_scale=_as_it_is,
        )
        for threads in (1, 2)
    ]
    lines += [
        Figure("peak anonymous memory beyond the KV cache", "", "MB", Series("ours/memory-2", "mb"), None, 25, False),
        Figure("load to first token, warm file cache", "", "ms", Series("ours/load-2", "ms"), None, 60, False),
        Figure(
            f"decode, 2 threads beside {document.settings.busy} busy processes",
            "quiet",
            "tokens/s",
            Series("ours/busy-2", "loops-1"),
            Series("ours/decode-2", "loops-1"),
            0.35,
        ),
    ]
    # What the issue does not ask for and a reader does.
    lines += [
        Figure(
            f"{label(name)}, 2 threads beside {document.settings.busy} busy processes",
            "quiet",
            "tokens/s",
            Series(f"{name}/busy-2"),
            Series(f"{name}/decode-2"),
        )
        for name in llamas
    ]
    return lines


def rows(document: PeersDocument) -> list[Row]:
    """Every line with its figures."""
    return [_row(figure, document) for figure in figures(document)]


def _row(figure: Figure, document: PeersDocument) -> Row:
    ours, peers, ratios = list[float](), list[float](), list[float]()
    disturbed = 0
    for one in document.rounds:
        mine = _value(figure.ours, one, figure.scale)
        if mine is None:
            continue
        theirs = None
        if figure.peer is not None:
            theirs = _value(figure.peer, one, figure.peer_scale or figure.scale)
            if not theirs:
                continue
            peers.append(theirs)
        ours.append(mine)
        ratios.append(mine / theirs if theirs else mine)
        disturbed += any(_is_disturbed(one.samples.get(cell)) for cell in _cells(figure))
    if not ratios:
        return Row(figure, reason=_reason(figure, document))
    return Row(
        figure,
        statistics.median(ours),
        statistics.median(peers) if peers else None,
        statistics.median(ratios),
        float(np.percentile(ratios, 10)),
        float(np.percentile(ratios, 90)),
        len(ratios),
        disturbed,
    )


def _value(series: Series, one: Round, scale: Scale) -> float | None:
    sample = one.samples.get(series.cell)
    values = sample.series.get(series.name) if sample else None
    return scale(series.pick(values), sample) if sample and values else None


def _cells(figure: Figure) -> list[str]:
    return [series.cell for series in (figure.ours, figure.peer) if series is not None]


def _is_disturbed(sample: Sample | None) -> bool:
    if sample is None:
        return False
    other, stolen = sample.other_cores or 0.0, sample.stolen_cores or 0.0
    return other > MAX_OTHER_CORES or stolen > MAX_STOLEN_CORES


def _reason(figure: Figure, document: PeersDocument) -> str:
    """Why a line has no figure: the first reason found."""
    for cell in _cells(figure):
        contestant = cell.partition("/")[0]
        if contestant in document.missing:
            return document.missing[contestant]
        if cell in document.unavailable:
            return document.unavailable[cell]
        for one in document.rounds:
            sample = one.samples.get(cell)
            if sample is not None and sample.error:
                return f"failed: {sample.error}"
    return "not measured" if document.rounds else "no round was finished"


def _tax(label: str, cell: str, loops: int, target: float) -> Figure:
    return Figure(
        label,
        "1 loop",
        "ms/token",
        Series(cell, f"loops-{loops}"),
        Series(cell, "loops-1"),
        target,
        higher=False,
        scale=_milliseconds,
    )


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
