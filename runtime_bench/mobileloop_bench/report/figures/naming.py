"""What the charts call a configuration: short names that still tell all of them apart, one mark per series."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mobileloop_bench.report.figures.palette import COLOURS, SHAPES, Mark
from mobileloop_bench.results.result import Result
from mobileloop_bench.writing.units import counted

RUNTIMES = {"engine": "engine", "executorch": "ExecuTorch", "onnx": "ONNX"}
Key = tuple[str, str, str]  # artifact, runtime, streaming mode where it tells two rows apart


@dataclass(frozen=True)
class Group:
    """Rows that one panel shows: same threads, depth and sequences."""

    title: str
    rows: Sequence[Result]

    @property
    def threads(self) -> int:
        """Of every row."""
        return self.rows[0].threads


class Names:
    """The names and marks of all measured rows of a report."""

    def __init__(self, rows: Sequence[Result]) -> None:
        seen = Counter((_place(row), row.artifact, row.runtime) for row in rows)
        self._by_stream = {key[1:] for key, count in seen.items() if count > 1}
        keys = list(dict.fromkeys(self.key(row) for row in rows))
        peers = {self.key(row) for row in rows if row.peer}
        labels = _labels(rows)
        self._marks = {}
        for number, key in enumerate(keys):
            stream = f", stream {key[2]}" if key[2] else ""
            label = f"{labels[key[0], key[1]]}{stream}{' (peer)' if key in peers else ''}"
            self._marks[key] = Mark(label, COLOURS[number % len(COLOURS)], SHAPES[number % len(SHAPES)], key in peers)
        self._several = [len({getattr(row, name) for row in rows}) > 1 for name in ("depth", "sequences")]

    def key(self, row: Result) -> Key:
        """What makes a series: the streaming mode only where one artifact ran with several at the same loops."""
        by_stream = (row.artifact, row.runtime) in self._by_stream
        return row.artifact, row.runtime, (row.stream or "unknown") if by_stream else ""

    def mark(self, row: Result) -> Mark:
        """Colour, shape and label of its series."""
        return self._marks[self.key(row)]

    def marks(self, rows: Sequence[Result]) -> list[Mark]:
        """Of the series that these rows belong to, in order."""
        return list(dict.fromkeys(self.mark(row) for row in rows))

    def name(self, row: Result) -> str:
        """Its series and its loops."""
        return f"{self.mark(row).label}, {counted(row.loops, 'loop')}"

    def full_name(self, row: Result) -> str:
        """With its panel's title, for tables."""
        return f"{self.name(row)}, {self.title(row)}"

    def title(self, row: Result) -> str:
        """Threads, and depth and sequences where they vary."""
        depth, sequences = self._several
        parts = [counted(row.threads, "thread")]
        parts += [f"{row.depth} tokens deep"] if depth else []
        parts += [counted(row.sequences, "sequence")] if sequences else []
        return ", ".join(parts)

    def groups(self, rows: Sequence[Result]) -> list[Group]:
        """These rows by panel, in order of threads, depth and sequences."""
        keys = sorted({(row.threads, row.depth, row.sequences) for row in rows})
        found = []
        for key in keys:
            members = [row for row in rows if (row.threads, row.depth, row.sequences) == key]
            found.append(Group(self.title(members[0]), members))
        return found


def _place(row: Result) -> tuple[int, int, int, int]:
    return row.threads, row.loops, row.depth, row.sequences


def _labels(rows: Sequence[Result]) -> dict[tuple[str, str], str]:
    """The runtime alone where it has one artifact, else with what its artifact's name has of its own."""
    keys = list(dict.fromkeys((row.artifact, row.runtime) for row in rows))
    peers = {(row.artifact, row.runtime): row.peer.name for row in rows if row.peer}
    parts = {key: _parts(key[0]) for key in keys}
    stems = [stem for stem, _ in parts.values()]
    common = _common(stems) if len(set(stems)) > 1 else 0
    runtime = {key: peers.get(key, RUNTIMES.get(key[1], key[1])) for key in keys}
    several = Counter((runtime[key], parts[key][1]) for key in keys)
    found = {}
    for key in keys:
        stem, run = parts[key]
        own = f" {stem[common:]}" if several[runtime[key], run] > 1 else ""
        found[key] = f"{runtime[key]}{own}{run}"
    # Names that agree after all are told in full.
    again = Counter(found.values())
    return {key: label if again[label] == 1 else key[0] for key, label in found.items()}


def _common(stems: Sequence[str]) -> int:
    """Length of what all of them begin with, up to and with a separator."""
    first, last = min(stems), max(stems)
    alike = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return max(first[:alike].rfind(mark) for mark in "-_./ ") + 1


def _parts(artifact: str) -> tuple[str, str]:
    """The name without its suffix, and the run that the report added."""
    match = re.fullmatch(r"(.*?)( \(run \d+\))?", artifact, re.S)
    name, run = (match[1], match[2] or "") if match else (artifact, "")
    return os.path.splitext(os.path.basename(name) or name)[0], run
