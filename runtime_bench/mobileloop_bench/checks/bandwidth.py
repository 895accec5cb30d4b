"""Our read bandwidth beside likwid-bench's, alternating: `python -m mobileloop_bench.checks.bandwidth`.

Both read the same bytes with 256-bit loads on the same cpus, once in huge pages and once in small ones, so a ratio far
from one is an error of either. sysbench is asked too where it is there; its loads are 8 bytes wide, so only its DRAM
figure can be compared, and as a lower bound.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, FiniteFloat

from mobileloop.errors import MobileloopError
from mobileloop.files import check_output, written_whole
from mobileloop.runtimes import native
from mobileloop.runtimes.topology import read_topology
from mobileloop_bench.bandwidth.ceiling import working_set_bytes
from mobileloop_bench.bandwidth.memory import Memory
from mobileloop_bench.bandwidth.sweep import cache_sizes
from mobileloop_bench.machine.probe import probe
from mobileloop_bench.writing.lists import numbers
from mobileloop_bench.writing.units import mebibytes

LIKWID, SYSBENCH = "likwid-bench", "sysbench"
KERNEL = "load_avx"  # as wide as our loads; the engine uses no AVX-512
# likwid-bench takes its memory from malloc, which asks for huge pages when glibc is told so (2.35 or newer).
HUGE = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
SECONDS, ALTERNATIONS = 0.25, 5


class Comparison(BaseModel):
    """One working set and thread count; the samples of one index were taken right after each other.

    Attributes:
        ours_gbps, theirs_gbps: bytes over time, in 1e9 bytes per second.
    """

    level: str
    size_bytes: int
    threads: int
    tool: str
    huge_pages: bool
    ours_gbps: list[FiniteFloat] = []
    theirs_gbps: list[FiniteFloat] = []

    def ratios(self) -> list[float]:
        """Ours over theirs, of each pair."""
        return [ours / theirs for ours, theirs in zip(self.ours_gbps, self.theirs_gbps, strict=True)]

    def line(self) -> str:
        """For people."""
        ratios = self.ratios()
        pages = "huge" if self.huge_pages else "small"
        return (
            f"{self.level:5} {mebibytes(self.size_bytes):>10} {self.threads:>7} {pages:>6} {self.tool:>12} "
            f"{statistics.median(self.ours_gbps):>8.2f} {statistics.median(self.theirs_gbps):>8.2f} "
            f"{statistics.median(ratios):>6.3f}  {min(ratios):.3f}-{max(ratios):.3f}"
        )


@dataclass
class Case:
    """What is compared; `seconds_per_byte` is ours, to tell the others how often to read."""

    level: str
    size_bytes: int
    threads: int
    found: dict[tuple[str, bool], Comparison] = field(default_factory=dict)

    def record(self, tool: str, huge: bool, ours: float, theirs: float) -> None:
        """One pair."""
        one = self.found.setdefault(
            (tool, huge),
            Comparison(level=self.level, size_bytes=self.size_bytes, threads=self.threads, tool=tool, huge_pages=huge),
        )
        one.ours_gbps.append(ours)
        one.theirs_gbps.append(theirs)


def parse_likwid(output: str) -> tuple[int, float]:
    """Bytes of the working set and GB/s from what likwid-bench prints.

    Raises:
        MobileloopError: where they are not in it.
    """
    size = re.search(r"^Size \(Byte\):\s*(\d+)\s*$", output, re.M)
    rate = re.search(r"^MByte/s:\s*([0-9.]+)\s*$", output, re.M)
    if not size or not rate or float(rate[1]) <= 0:
        said = output.strip().splitlines()
        raise MobileloopError(f"likwid-bench gave no bandwidth; it said: {said[-1] if said else 'nothing'}")
    return int(size[1]), float(rate[1]) / 1e3


def parse_sysbench(output: str) -> float:
    """GB/s from what `sysbench memory` prints.

    Raises:
        MobileloopError: where it is not in it.
    """
    rate = re.search(r"transferred \(([0-9.]+) MiB/sec\)", output)
    if not rate or float(rate[1]) <= 0:
        raise MobileloopError("sysbench gave no bandwidth.")
    return float(rate[1]) * (1 << 20) / 1e9


def _run(command: Sequence[str], more: dict[str, str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **more})
    return done.stdout + done.stderr


def likwid(case: Case, huge: bool, passes: int) -> float:
    """GB/s of likwid-bench on the first cpus of the machine.

    Raises:
        MobileloopError: where it fails or reads another working set.
    """
    work = f"N:{case.size_bytes // 1000}kB:{case.threads}"
    size, rate = parse_likwid(_run([LIKWID, "-t", KERNEL, "-i", str(passes), "-w", work], HUGE if huge else {}))
    if abs(size / case.size_bytes - 1) > 0.02:
        raise MobileloopError(f"likwid-bench read {size} bytes where {case.size_bytes} were asked for.")
    return rate


def sysbench(case: Case, passes: int) -> float:
    """GB/s of sysbench, each thread with its own part."""
    part = case.size_bytes // case.threads
    total = part * case.threads * passes
    options = {"block-size": part, "total-size": total, "oper": "read", "scope": "local"}
    words = [f"--memory-{name}={value}" for name, value in options.items()]
    return parse_sysbench(_run([SYSBENCH, "memory", *words, f"--threads={case.threads}", "run"], {}))


def cases(threads: Sequence[int]) -> list[Case]:
    """Half of the L2, four times the L2, and a working set far beyond the caches, for each thread count.

    Raises:
        MobileloopError: for more threads than cpus, or where the size of the L2 is hidden.
    """
    topology, dram = read_topology(), working_set_bytes(probe())
    cpus = [cpu.cpu for cpu in topology.cpus]
    found = []
    for count in threads:
        level_2 = dict(cache_sizes(topology, cpus[:count])).get("L2")
        if count > len(cpus) or level_2 is None:
            raise MobileloopError(
                f"{count} threads cannot be compared: too few cpus, or the size of their L2 is hidden."
            )
        found += [Case("L2", level_2 // 2, count), Case("L3", 4 * level_2, count), Case("DRAM", dram, count)]
    return found


def compare(case: Case, seconds: float, alternations: int) -> list[Comparison]:
    """Alternate between ours and theirs, both kinds of pages; who comes first alternates too."""
    cpus = [cpu.cpu for cpu in read_topology().cpus][: case.threads]
    has_sysbench = case.level == "DRAM" and shutil.which(SYSBENCH) is not None
    memories = {huge: Memory(case.size_bytes, case.threads, cpus, huge) for huge in (True, False)}
    try:

        def ours(huge: bool) -> float:
            return statistics.harmonic_mean(memories[huge].read_gbps(case.size_bytes, seconds))

        for turn in range(alternations):
            for huge, memory in memories.items():
                memory.read_gbps(case.size_bytes, seconds / 10)
                passes = max(1, round(ours(huge) * 1e9 * seconds / case.size_bytes))
                if turn % 2 == 0:
                    first = ours(huge)
                    case.record(LIKWID, huge, first, likwid(case, huge, passes))
                else:
                    theirs = likwid(case, huge, passes)
                    case.record(LIKWID, huge, ours(huge), theirs)
            if has_sysbench:
                case.record(SYSBENCH, False, ours(False), sysbench(case, 1))
    finally:
        for memory in memories.values():
            memory.close()
    return list(case.found.values())


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m mobileloop_bench.checks.bandwidth", description=__doc__)
    parser.add_argument("--threads", default="1,2", metavar="LIST", help="thread counts (default: 1,2)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of each measurement (default: {SECONDS})")
    parser.add_argument("--alternations", type=int, default=ALTERNATIONS, help=f"default: {ALTERNATIONS}")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write every sample here")
    given = parser.parse_args()
    try:
        if given.json is not None:
            check_output(given.json)
        if not 0.001 <= given.seconds <= 60 or not 1 <= given.alternations <= 1000:
            raise MobileloopError("--seconds is outside 0.001-60 or --alternations outside 1-1000.")
        if shutil.which(LIKWID) is None:
            raise MobileloopError(f"{LIKWID} is not installed; on Debian and Ubuntu: apt-get install likwid.")
        found: list[Comparison] = []
        start = time.monotonic()
        print("level  working set threads  pages         tool     ours   theirs  ratio  of all pairs", flush=True)
        for case in cases(numbers(given.threads, "--threads")):
            for one in compare(case, given.seconds, given.alternations):
                print(one.line(), flush=True)
                found.append(one)
        print(f"GB/s (1e9 bytes), kernels {native.kernels()} and {KERNEL}, {time.monotonic() - start:.0f} s in all.")
        if given.json is not None:
            with written_whole(given.json) as temporary:
                temporary.write_text("\n".join(one.model_dump_json() for one in found) + "\n", encoding="utf-8")
    except MobileloopError as error:
        print(f"mobileloop: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
