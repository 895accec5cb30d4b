"""Cache misses by valgrind's cachegrind, on the host's own build of the engine: the second opinion on the emulator's.

Cachegrind has one core, two levels of data cache and no marks, so the misses of one decoded token are the difference
between a run of two tokens and a run of one.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from mobileloop.errors import MobileloopError
from mobileloop_bench.simulate.caches import LINE_BYTES, Cache
from mobileloop_bench.simulate.qemu import build, needed, run


class Cachegrind:
    """The engine under cachegrind; it is built in `folder`, once.

    Raises:
        MobileloopError: where valgrind or a compiler is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.valgrind = needed("valgrind", "valgrind")
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.program = build(folder / "engine-host", "evidence")

    def token_lines(self, artifact: Path, loops: int, l1: Cache, last: Cache, prefix: int = 0) -> int:
        """Lines of 64 bytes that one decoded token misses in the last level, on one thread."""

        def of(tokens: int) -> int:
            return self._misses(("decode", artifact, loops, 1, tokens, prefix), l1, last)

        return of(2) - of(1)

    def stream_lines(self, size_bytes: int, passes: int, l1: Cache, last: Cache) -> int:
        """Lines that `passes` passes over a buffer in order miss, beyond what one pass misses."""
        return self._misses(("stream", size_bytes, passes + 1), l1, last) - self._misses(
            ("stream", size_bytes, 1), l1, last
        )

    def described(self) -> str:
        """What the figures come from."""
        return f"{run(self.valgrind, '--version').strip()} cachegrind, {platform.machine()} build"

    def _misses(self, arguments: tuple[str | int | Path, ...], l1: Cache, last: Cache) -> int:
        out = self.folder / f"cachegrind-{os.getpid()}.out"
        geometry = [f"--{name}={_geometry(cache)}" for name, cache in (("D1", l1), ("LL", last))]
        try:
            run(
                *(self.valgrind, "--tool=cachegrind", "--cache-sim=yes", *geometry, f"--cachegrind-out-file={out}"),
                *(self.program, *arguments),
                # valgrind knows no newer x86 set than AVX2.
                environment={"MOBILELOOP_KERNELS": "avx2"} if platform.machine() == "x86_64" else None,
            )
            lines = out.read_text(encoding="utf-8", errors="replace").splitlines()
        finally:
            out.unlink(missing_ok=True)
        events, total = (
            next((line for line in lines if line.startswith(name)), "").split()[1:] for name in ("events:", "summary:")
        )
        if not events or len(events) != len(total):
            raise MobileloopError("cachegrind's output has no summary; another version of valgrind may help.")
        named = dict(zip(events, map(int, total), strict=True))
        return named["DLmr"] + named["DLmw"]


def _geometry(cache: Cache) -> str:
    """As cachegrind reads it; it wants the number of sets to be a power of two, so ways are chosen to suit."""
    lines = cache.size_bytes // LINE_BYTES
    odd = lines // (lines & -lines)  # what no power of two divides
    ways = odd
    while ways < cache.ways and lines % (2 * ways) == 0:
        ways *= 2
    return f"{cache.size_bytes},{ways},{LINE_BYTES}"
