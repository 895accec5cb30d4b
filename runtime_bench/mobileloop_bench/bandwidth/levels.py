"""Where the read bandwidth falls for good as the working set grows: the knees, and the caches they are named after."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

DRAM = "DRAM"
FALL = 0.2  # of the rate, at the least; less is noise, or one level that slopes
LEAST_RUNGS = 3  # of a level: what falls and rises again within fewer was a disturbance
STILL = 0.85  # of a level's rate: a rung below it is on its way to the next level
OVER = 1.25  # a knee so far above a cache's size is that cache's: the last rungs still hit it mostly
APART = 1.5  # octaves between neighbouring sizes on average: further apart, one level's rungs lie in several caches
PENALTY = 0.8  # what a further level must save of the absolute errors of the logarithms


@dataclass(frozen=True)
class Level:
    """Working sets that are read at one rate.

    Attributes:
        up_to_bytes: the largest of them; None for DRAM.
        read_gbps: the median of their rungs, in 1e9 bytes per second.
    """

    name: str
    up_to_bytes: int | None
    read_gbps: float


def enough(sizes: Sequence[int]) -> bool:
    """Whether levels can be told apart: two of them, and neighbours that are close."""
    return len(sizes) >= 2 * LEAST_RUNGS and math.log2(max(sizes) / min(sizes)) <= APART * (len(sizes) - 1)


def find_levels(rungs: Sequence[tuple[int, float]], caches: Sequence[tuple[str, int]]) -> list[Level]:
    """The levels of a ladder, from the smallest working set on.

    A disturbance only ever makes reads slower, so each rung counts at least as fast as every larger working set, after
    a median of three neighbours took single outliers away. The logarithms of what is left are cut into the constant
    pieces with the smallest absolute errors; neighbours whose rates differ by less than `FALL` are one level. A knee
    belongs to the smallest cache that holds it: our share of a cache may be smaller than the cache. Of several knees in
    one cache the deepest stays.

    Args:
        rungs: size in bytes and rate in GB/s.
        caches: name and size in bytes of each cache level, of all the cores that read together, the smallest first;
            empty where they are unknown, and the levels are then L1, L2, ... as they come.
    """
    ordered = sorted(rungs)
    if not ordered:
        return []
    sizes, rates = [size for size, _ in ordered], [rate for _, rate in ordered]
    cuts = _merged(_cuts([math.log(rate) for rate in _envelope(rates)]), rates, sizes, caches)
    edges = [0, *cuts, len(sizes)]
    pieces = [range(begin, end) for begin, end in pairwise(edges)]
    levels, used = [], 0
    for piece in pieces:
        rate = _rate(rates, piece)
        if piece is pieces[-1]:
            name = _last_name(sizes[-1], caches, used, len(pieces))
            levels.append(Level(name, None if name == DRAM else sizes[-1], rate))
            break
        knee = max((sizes[i] for i in piece if rates[i] >= STILL * rate), default=sizes[piece[0]])
        used = _cache_of(knee, caches, used) + 1
        levels.append(Level(_name(used - 1, caches), knee, rate))
    return levels


def _rate(rates: Sequence[float], piece: range) -> float:
    """The median of a piece without the rungs that are already falling."""
    middle = statistics.median(rates[i] for i in piece)
    return statistics.median([rates[i] for i in piece if rates[i] >= STILL * middle])


def _envelope(rates: Sequence[float]) -> list[float]:
    middle = [statistics.median(rates[max(0, i - 1) : i + 2]) for i in range(len(rates))]
    if len(rates) >= LEAST_RUNGS:
        middle[0], middle[-1] = max(middle[0], rates[0]), statistics.median(rates[-LEAST_RUNGS:])
    for i in range(len(middle) - 2, -1, -1):
        middle[i] = max(middle[i], middle[i + 1])
    return middle


def _cuts(values: Sequence[float]) -> list[int]:
    """Where the best pieces begin, but the first: the least absolute error plus `PENALTY` per piece."""
    count = len(values)
    best: list[tuple[float, list[int]]] = [(0.0, [])]
    for end in range(1, count + 1):
        options: list[tuple[float, list[int]]] = [(math.inf, [])] if end < count else [(_error(values), [])]
        for begin in range(0, end - LEAST_RUNGS + 1):
            cost, cuts = best[begin]
            options.append((cost + _error(values[begin:end]) + PENALTY, [*cuts, begin] if begin else []))
        best.append(min(options, key=lambda option: option[0]))
    return best[count][1]


def _error(values: Sequence[float]) -> float:
    middle = statistics.median(values)
    return sum(abs(value - middle) for value in values)


def _merged(cuts: list[int], rates: list[float], sizes: list[int], caches: Sequence[tuple[str, int]]) -> list[int]:
    """Without cuts that fall too little, and of those in one cache only the deepest."""
    cuts = list(cuts)

    def fall(index: int) -> float:
        edges = [0, *cuts, len(rates)]
        before, behind = range(edges[index], edges[index + 1]), range(edges[index + 1], edges[index + 2])
        return 1 - _rate(rates, behind) / _rate(rates, before)

    while cuts:
        falls = [fall(i) for i in range(len(cuts))]
        least = min(range(len(cuts)), key=falls.__getitem__)
        if falls[least] >= FALL:
            homes = [_cache_of(sizes[cut - 1], caches, 0) for cut in cuts]
            crowded = [i for i in range(len(cuts)) if caches and homes.count(homes[i]) > 1]
            if not crowded:
                break
            least = min(crowded, key=falls.__getitem__)
        del cuts[least]
    return cuts


def _cache_of(knee: int, caches: Sequence[tuple[str, int]], first: int) -> int:
    """Index of the smallest cache from `first` on that a knee belongs to; behind all of them where none is so large."""
    return next(
        (i for i, (_, size) in enumerate(caches) if i >= first and knee <= OVER * size), max(first, len(caches))
    )


def _name(index: int, caches: Sequence[tuple[str, int]]) -> str:
    return caches[index][0] if index < len(caches) else f"L{index + 1}"


def _last_name(size: int, caches: Sequence[tuple[str, int]], used: int, pieces: int) -> str:
    """DRAM, unless the largest working set still fits a cache that no knee was found for."""
    fits = _cache_of(size, caches, used)
    return _name(fits, caches) if fits < len(caches) else DRAM if caches or pieces > 1 else "L1"
