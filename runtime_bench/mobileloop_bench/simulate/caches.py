"""Made-up and published cache geometries."""

from __future__ import annotations

from dataclasses import dataclass

from mobileloop.artifact import ArtifactInfo

LINE_BYTES = 64
KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Cache:
    """One level of a simulated cache: 64-byte lines, the least recently used line leaves.

    Attributes:
        size_bytes: of one cache of this level.
        ways: associativity.
        cores: how many cores share one; None where all do.
    """

    size_bytes: int
    ways: int
    cores: int | None = 1

    def option(self) -> str:
        """As the plugin reads it."""
        return f"{self.size_bytes}:{self.ways}" + (f":{self.cores}" if self.cores else "")


@dataclass(frozen=True)
class Phone:
    """Caches of a phone's big cores as far as they are known, and where each size is from."""

    name: str
    l1: Cache
    l2: Cache
    last: Cache | None
    source: str


# The system-level cache that some of them have behind these is left out: its sizes are rumours.
PHONES = {
    "elite": Phone(
        "Snapdragon 8 Elite, performance cores",
        Cache(128 * KIB, 4),
        Cache(12 * MIB, 12, 8),
        None,
        "L1 and L2 as the press reported them; no L3; ways assumed",
    ),
    "gen3": Phone(
        "Snapdragon 8 Gen 3, X4",
        Cache(64 * KIB, 4),
        Cache(2 * MIB, 8),
        Cache(12 * MIB, 16, None),
        "L2 and L3 from memory, not verified (a leak says 10 MB of L3); L1 and ways assumed",
    ),
    "d9300": Phone(
        "Dimensity 9300, X4",
        Cache(64 * KIB, 4),
        Cache(1 * MIB, 8),
        Cache(8 * MIB, 16, None),
        "L3 as the press reported it; L2 from memory, not verified; L1 and ways assumed",
    ),
    "pi5": Phone(
        "Raspberry Pi 5 (a board), A76",
        Cache(64 * KIB, 4),
        Cache(512 * KIB, 8),
        Cache(2 * MIB, 16, None),
        "sizes from the Linux device tree of the board (bcm2712.dtsi); ways assumed",
    ),
}


def is_resident(info: ArtifactInfo, cache: Cache, threads: int) -> bool:
    """Whether what a loop re-reads fits the caches of one level, by size alone.

    A stage's blocks are re-read together. A core re-reads its own rows, 1 / threads of them, and `cache.cores` cores
    share one cache.
    """
    sharing = min(cache.cores or threads, threads)
    stages = (sum(info.costs.block_bytes[block] for block in stage.blocks) for stage in info.schedule.stages)
    return max(stages) * sharing / threads <= cache.size_bytes
