"""Whether results that are called valid repeat, whatever else runs on this machine.

A pair is two runs of one small sweep, each in a process of its own, one behind the other. Wherever a configuration is
valid in both, its medians must agree: the ratio of the second to the first is 1 within the 95% interval that the rounds
of both runs and the drift between two runs leave (`ratio_interval` with `DRIFT`, as `mobileloop compare --statistic
median` judges them). Beside it stands how often the two intervals of the rows alone overlap, without the drift, and
what the rows do that are not valid.

    python -m mobileloop_bench.checks.validity [ARTIFACT] [--pairs 20] [--seconds 30] [--json OUT]

Without an artifact it makes a small one with random weights (7 MB, 12 blocks).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from mobileloop.files import written_whole
from mobileloop_bench.checks.compare import small_artifact
from mobileloop_bench.machine.probe import probe
from mobileloop_bench.measure.plan import make_plan, open_artifacts
from mobileloop_bench.measure.rounds import measure
from mobileloop_bench.measure.summary import make_document
from mobileloop_bench.results.bootstrap import CONFIDENCE, DRIFT, as_rounds, ratio_interval
from mobileloop_bench.results.document import Document, read_document
from mobileloop_bench.results.result import Result
from mobileloop_bench.results.settings import Settings
from mobileloop_bench.results.table import short_reasons

SETTINGS = Settings(threads=[1, 2], loops=[1, 2], prompt_tokens=8, decode_tokens=24, until_stable=True)
ENOUGH = 0.95  # 19 of 20


class Pair(BaseModel):
    """One configuration in two runs; `ratio` of the second's median to the first's, with its interval."""

    loops: int
    threads: int
    valid: tuple[bool, bool]
    ratio: float
    low: float
    high: float
    overlap: bool
    half_widths: tuple[float, float]
    rounds: tuple[int, int]
    doubts: list[str]

    @property
    def agree(self) -> bool:
        """Whether both may be of one true time."""
        return self.low <= 1 <= self.high


def measure_once(artifact: Path, seconds: float, out: Path) -> None:
    """One run, written as `mobileloop bench --json` writes it."""
    plan = make_plan(open_artifacts([artifact]), SETTINGS.model_copy(update={"time_budget_s": seconds}))
    make_document(measure(plan), probe(), [], {}, None).write(out)


def one_run(artifact: Path, seconds: float, out: Path) -> Document:
    """`measure_once` in a process of its own."""
    command = [sys.executable, "-m", "mobileloop_bench.checks.validity", str(artifact), "--once", str(out)]
    subprocess.run([*command, "--seconds", str(seconds)], check=True)
    return read_document(out)


def paired(first: Document, second: Document) -> list[Pair]:
    """The decodes that both runs measured."""
    rows = zip(*([row for row in one.results if row.phase == "decode"] for one in (first, second)), strict=True)
    return [_pair(*both) for both in rows if all(row.median_low_ms is not None for row in both)]


def _pair(one: Result, other: Result) -> Pair:
    before, after = (as_rounds(row.samples_ms, row.samples_per_round or 1) for row in (one, other))
    found = ratio_interval(before, after, quantile=0.5, confidence=CONFIDENCE, drift=DRIFT, paired=False)
    bounds = [(row.median_low_ms or 0.0, row.median_high_ms or 0.0) for row in (one, other)]
    return Pair(
        loops=one.loops,
        threads=one.threads,
        valid=(one.valid, other.valid),
        ratio=found.estimate,
        low=found.low,
        high=found.high,
        overlap=max(low for low, _ in bounds) <= min(high for _, high in bounds),
        half_widths=(one.half_width or 0.0, other.half_width or 0.0),
        rounds=(len(before), len(after)),
        doubts=short_reasons([*one.reasons, *other.reasons]),
    )


def table(pairs: Sequence[Pair]) -> str:
    """A line per configuration: of the pairs valid in both runs, and of the others."""
    lines = ["loops  threads  rows     pairs  agree  overlap without drift  change, median and most"]
    for loops, threads in dict.fromkeys((pair.loops, pair.threads) for pair in pairs):
        own = [pair for pair in pairs if (pair.loops, pair.threads) == (loops, threads)]
        for name, some in (("valid", _valid(own)), ("others", [pair for pair in own if not all(pair.valid)])):
            lines.append(f"{loops:5}  {threads:7}  {name:6}  {_counts(some)}")
    lines.append(f"    all valid rows        {_counts(_valid(pairs))}")
    doubts = Counter(doubt for pair in pairs for doubt in pair.doubts)
    lines.append("doubts: " + (", ".join(f"{name} ({count})" for name, count in doubts.most_common()) or "none"))
    return "\n".join(lines)


def _valid(pairs: Iterable[Pair]) -> list[Pair]:
    return [pair for pair in pairs if all(pair.valid)]


def _counts(pairs: Sequence[Pair]) -> str:
    changes = [abs(np.log(pair.ratio)) for pair in pairs]
    told = f"{np.median(changes):.1%}, {max(changes):.1%}" if changes else "-"
    return f"{len(pairs):6}  {sum(p.agree for p in pairs):5}  {sum(p.overlap for p in pairs):21}  {told}"


def main() -> int:
    """Entry point: 0 where 19 of 20 pairs of valid rows agree, and there is one valid row per pair of runs at least."""
    parser = argparse.ArgumentParser(prog="python -m mobileloop_bench.checks.validity", description=__doc__)
    parser.add_argument("artifact", nargs="?", type=Path)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30, help="of one run")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.once:
        measure_once(asked.artifact, asked.seconds, asked.once)
        return 0
    found: list[Pair] = []
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.artifact is None:
            asked.artifact = folder / "small.safetensors"
            small_artifact(asked.artifact)
        for number in range(asked.pairs):
            runs = [one_run(asked.artifact, asked.seconds, folder / "run.json") for _ in range(2)]
            found += paired(*runs)
            print(f"{number + 1}/{asked.pairs}: {_counts(_valid(found))}", file=sys.stderr, flush=True)
            told = {"drift": DRIFT, "confidence": CONFIDENCE, "pairs": [pair.model_dump() for pair in found]}
            if asked.json:
                with written_whole(asked.json) as temporary:
                    temporary.write_text(json.dumps(told) + "\n", encoding="utf-8")
    print(table(found))
    print(json.dumps(told))
    valid = _valid(found)
    return 0 if len(valid) >= asked.pairs and sum(pair.agree for pair in valid) >= ENOUGH * len(valid) else 1


if __name__ == "__main__":
    sys.exit(main())
