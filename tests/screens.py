"""Every screen with a table or facts, of made-up documents: `python tests/screens.py FOLDER` prints them all.

It works in FOLDER, an empty one. test_commands_screens.py looks at what it prints and renews the screens that are kept.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
KEPT = HERE / "data" / "screens"
MARK = "=== "  # before the name of each screen, on a line of its own


def cli(*words: str) -> None:
    """A command in this process; 1 is a verdict such as a regression."""
    from mobileloop.cli import app

    with pytest.raises(SystemExit) as end:
        app(list(words))
    assert end.value.code in (0, 1, None), (words, end.value.code)


def bench() -> None:
    """The card, then a table with everything in it: three artifacts, loops, threads, a peer, doubts."""
    from bench_fakes import FakeSession, made_up_document
    from report_fakes import full_document

    from mobileloop.console import open_console
    from mobileloop_bench.measure.card import print_card
    from mobileloop_bench.measure.plan import make_plan, open_artifacts
    from mobileloop_bench.results.settings import Settings
    from mobileloop_bench.results.table import print_results

    paths = [Path(f"tiny-looped-int4{suffix}") for suffix in (".safetensors", ".pte")]
    for path in paths:
        path.write_bytes(b"not really")
    FakeSession.log.clear()
    settings = Settings(threads=[1, 2], loops=[1, 2, 4], prompt_tokens=8, decode_tokens=4)
    plan = make_plan(open_artifacts(paths), settings)
    print_card(open_console(), plan, full_document().machine, made_up_document(plan).bandwidth)
    print_results(open_console(), full_document(loops=(1, 2, 4)))


def bench_of_one() -> None:
    """A single row."""
    from report_fakes import full_document

    from mobileloop.console import open_console
    from mobileloop_bench.results.table import print_results

    document = full_document(loops=(1,), threads=(1,), unshared=None, peers=False)
    rows = [row for row in document.results if row.runtime == "engine"]
    print_results(open_console(), document.model_copy(update={"results": rows}))


def bandwidth() -> None:
    """A ladder with steps, and one without."""
    from report_fakes import full_ladder

    from mobileloop.console import open_console
    from mobileloop_bench.bandwidth.table import print_ladder

    ladder = full_ladder().model_copy(update={"kernels": "neon-dotprod", "cold_by": "reading another buffer"})
    print_ladder(open_console(), ladder)
    print_ladder(open_console(), ladder.model_copy(update={"steps": [], "rungs": ladder.rungs[:40:6]}))


def simulate() -> None:
    from mobileloop.console import open_console
    from mobileloop_bench.simulate.table import print_simulation
    from mobileloop_bench.simulate.traffic import Simulation, Traffic

    def row(loops: int, threads: int) -> Traffic:
        return Traffic(
            loops=loops, threads=threads, level="L3", level_bytes=2 << 20, context=16, resident=True,
            unique_bytes=98_000_000, executed_bytes=30_000_000 + 68_000_000 * loops, kv_bytes=370_000 * loops,
            dram_bytes=98_500_000 + 400_000 * loops, predicted_weight_bytes=98_000_000, lines={},
        )  # fmt: skip

    print_simulation(
        open_console(),
        Simulation(
            artifact="SmolLM2-135M-int4-immediate-4.safetensors",
            model="SmolLM2-135M",
            machine="Raspberry Pi 5",
            simulator="QEMU 7.2, aarch64 build",
            assumptions=["16 ways in the L3"],
            traffic=[row(loops, threads) for threads in (1, 4) for loops in (1, 2, 4)],
        ),
    )


def devices() -> None:
    from mobileloop.console import open_console
    from mobileloop_bench.devices.describe import Device
    from mobileloop_bench.devices.table import print_devices

    pixel = Device(
        serial="adb-3A151FDJH000QT-x0xGqY._adb-tls-connect._tcp", state="device", model="Pixel 8 Pro",
        soc="Google Tensor G3", android="15", cores=9, free_bytes=91_000_000_000, zone="VIRTUAL-SKIN", celsius=31.4,
        battery_percent=87,
    )  # fmt: skip
    print_devices(open_console(), [pixel, Device(serial="R5CT10ABCDE", state="unauthorized")])


def info() -> None:
    Path("tiny.safetensors").write_bytes(b"not really")
    cli("info", "tiny.safetensors")


def run() -> None:
    from mobileloop.commands.run import _line
    from mobileloop.console import say

    facts = {
        "loops": 4, "threads": 2, "applied_loops": {"mean": 2.6, "histogram": {1: 4, 2: 20, 4: 24}},
        "prefill_tokens_per_s": 712.4, "decode_tokens_per_s": 88.1, "time_to_first_token_ms": 61.0, "read_gbps": 9.1,
        "peak_memory_bytes": 312_000_000,
    }  # fmt: skip
    say(_line("engine", facts))


def compared() -> None:
    """Two runs, of which one row is slower and another is not comparable."""
    from report_fakes import full_document

    before = full_document(loops=(1, 2), threads=(2,), unshared=None)
    before.write(Path("before.json"))
    after = full_document(loops=(1, 2), threads=(2,), unshared=None)
    after.id = "later"
    for row in after.results:
        if row.runtime == "engine":
            row.samples_ms = [1.2 * ms for ms in row.samples_ms]
    after.results[-1].context_tokens = 64
    after.write(Path("after.json"))
    cli("compare", "before.json", "after.json")


def store() -> None:
    """Three commands on a store of one run."""
    from report_fakes import full_document

    full_document(loops=(1, 2)).write(Path("run.json"))
    sys.stdout.flush()
    cli("results", "add", "run.json", "--store", "lab.duckdb")
    cli("results", "list", "--store", "lab.duckdb")
    cli("results", "query", "--phase", "decode", "--store", "lab.duckdb")
    many = "artifact, runtime, quantization, phase, median_ms, p10_ms, p90_ms, p99_ms, unique_bytes, kv_bytes, schedule"
    query = f'SELECT run, "row", {many}, source_sha256 FROM results ORDER BY "row" LIMIT 5'
    cli("results", "query", "--sql", query, "--store", "lab.duckdb")


SCREENS: dict[str, Callable[[], None]] = {
    "bench": bench,
    "bench-one": bench_of_one,
    "bandwidth": bandwidth,
    "simulate": simulate,
    "device-list": devices,
    "info": info,
    "run": run,
    "compare": compared,
    "results": store,
    "plan": lambda: cli("plan", "mobilellm-125m", "--machine", "snapdragon-8-gen-3", "--budget", "15ms"),
    "machine": lambda: cli("machine", "snapdragon-8-gen-3"),
    "machine-list": lambda: cli("machine", "--list"),
}


def main(folder: Path) -> None:
    """Print all screens, each behind its name."""
    from bench_fakes import FakeSession

    from mobileloop import runtimes

    runtimes.open_session = lambda path, *, threads=0, loops=None, **_: FakeSession(path, threads, loops)  # type: ignore[assignment]
    os.chdir(folder)
    for name, screen in SCREENS.items():
        print(f"{MARK}{name}", flush=True)
        screen()
        sys.stdout.flush()


def shown(text: str) -> dict[str, list[str]]:
    """The lines of each screen in what `main` printed."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(MARK):
            lines = found.setdefault(line.removeprefix(MARK), [])
        else:
            lines.append(line)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
