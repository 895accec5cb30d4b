"""How often `mobileloop compare` is right on this machine, whatever else runs on it.

Every try is three runs, each in a process of its own: the program, the program again, and the program with a slowdown
planted in the engine (`EngineSession.slow_down`, 10%). Compared with the first run, the second must be no regression,
the third must.

    python -m mobileloop_bench.checks.compare [ARTIFACT] [--tries 20] [--slowdown 10%] [--json OUT]

Without an artifact it makes a small one with random weights (7 MB, 12 blocks). A try takes about ten seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from mobileloop.artifact import ArtifactInfo
from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError
from mobileloop.files import written_whole
from mobileloop.packed import PackedModel
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule
from mobileloop_bench.machine.probe import probe
from mobileloop_bench.measure.plan import make_plan, open_artifacts
from mobileloop_bench.measure.rounds import measure
from mobileloop_bench.measure.session_runner import SLOW_DOWN
from mobileloop_bench.measure.summary import make_document
from mobileloop_bench.results.compare import Rule, compare_runs
from mobileloop_bench.results.document import Document, read_document
from mobileloop_bench.results.settings import Settings
from mobileloop_bench.writing.lists import percentage
from mobileloop_export.formats import exporter

SETTINGS = Settings(threads=[1], loops=[1], prompt_tokens=16, decode_tokens=64, repetitions=12)


def small_artifact(path: Path) -> None:
    """12 blocks of random weights whose tokens take well under a time slice of the scheduler."""

    config = ModelConfig(
        name="small",
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=768,
        num_blocks=12,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        random_weights=True,
    )
    checkpoint = random_model(config, Schedule.immediate(12, 2))
    packed = PackedModel.from_checkpoint(checkpoint)
    info = ArtifactInfo.describe(checkpoint, packed, context=128, kv_bits=16)
    exporter("engine")(packed, info, path, lambda step, share: None)


def measure_once(artifact: Path, out: Path) -> None:
    """One run, written as `mobileloop bench --json` writes it."""
    plan = make_plan(open_artifacts([artifact]), SETTINGS)
    make_document(measure(plan), probe(), [], {}, None).write(out)


def one_run(artifact: Path, slowdown: float, out: Path) -> Document:
    """`measure_once` in a process of its own, every run of the engine `slowdown` longer."""
    command = [sys.executable, "-m", "mobileloop_bench.checks.compare", str(artifact), "--once", str(out)]
    subprocess.run(command, check=True, env={**os.environ, SLOW_DOWN: str(slowdown)})
    return read_document(out)


def check(artifact: Path, tries: int, slowdown: float, folder: Path) -> dict[str, Counter[str]]:
    """Verdicts over all tries, of the unchanged and of the slower program; each told on stderr."""
    found: dict[str, Counter[str]] = {"unchanged": Counter(), "slower": Counter()}
    for number in range(tries):
        first = one_run(artifact, 0, folder / "first.json")
        for name, planted in (("unchanged", 0.0), ("slower", slowdown)):
            verdict, told = _verdict(first, one_run(artifact, planted, folder / "second.json"))
            found[name][verdict] += 1
            print(f"{number + 1}/{tries} {name}: {verdict}, {told}", file=sys.stderr, flush=True)
    return found


def _verdict(first: Document, second: Document) -> tuple[str, str]:
    try:
        (one,) = compare_runs(first, second, Rule()).comparisons
    except MobileloopError as error:
        return "not comparable", str(error)
    return one.verdict, f"{one.ratio:.3f} ({one.low:.3f} to {one.high:.3f}), {'; '.join(one.notes)}"


def main() -> int:
    """Entry point: 0 where at least 19 of 20 unchanged and 18 of 20 slower programs were called right."""
    parser = argparse.ArgumentParser(prog="python -m mobileloop_bench.checks.compare", description=__doc__)
    parser.add_argument("artifact", nargs="?", type=Path)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--slowdown", type=percentage, default=0.10)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.once:
        measure_once(asked.artifact, asked.once)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.artifact is None:
            asked.artifact = folder / "small.safetensors"
            small_artifact(asked.artifact)
        found = check(asked.artifact, asked.tries, asked.slowdown, folder)
    told = {name: dict(counts) for name, counts in found.items()}
    print(json.dumps(told))
    if asked.json:
        with written_whole(asked.json) as temporary:
            temporary.write_text(json.dumps(told) + "\n", encoding="utf-8")
    right = asked.tries - found["unchanged"]["regression"], found["slower"]["regression"]
    return 0 if right[0] >= 0.95 * asked.tries and right[1] >= 0.9 * asked.tries else 1


if __name__ == "__main__":
    sys.exit(main())
