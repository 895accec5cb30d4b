"""How figures are written for people; an unknown is the word "unknown"."""

from __future__ import annotations

from collections.abc import Sequence

from mobileloop_bench.bandwidth.ceiling import Bandwidth

UNKNOWN = "unknown"


def megabytes(size_bytes: int | None) -> str:
    """In 1e6 bytes, so that MB over GB/s is ms."""
    if size_bytes is None:
        return UNKNOWN
    size = size_bytes / 1e6
    return f"{size:,.0f} MB" if size >= 100 else f"{size:.1f} MB" if size >= 0.1 else f"{size_bytes / 1e3:.1f} kB"


def mebibytes(size_bytes: int | None) -> str:
    """In powers of two, as caches are sold."""
    if size_bytes is None:
        return UNKNOWN
    if size_bytes >= 1 << 30:
        return f"{size_bytes / 2**30:,.4g} GiB"
    return f"{size_bytes / 2**20:,.4g} MiB" if size_bytes >= 1 << 20 else f"{size_bytes / 2**10:,.4g} KiB"


def figure(value: float | None, unit: str = "", digits: int = 3) -> str:
    """`digits` significant digits; whole numbers from 1000 on."""
    if value is None:
        return UNKNOWN
    text = f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:#.{digits}g}".rstrip(".")
    return f"{text} {unit}".rstrip()


def counted(count: int, noun: str) -> str:
    """`1 thread`, `2 threads`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def bandwidth_sentence(bandwidth: Sequence[Bandwidth]) -> str:
    """The measured read bandwidth by thread count, and what it is the bandwidth of."""
    if not bandwidth:
        return "Read bandwidth: unknown."
    sources = list(dict.fromkeys(one.taken_from for one in bandwidth))
    if len(sources) > 1:
        return " ".join(bandwidth_sentence([one for one in bandwidth if one.taken_from == own]) for own in sources)
    each = ", ".join(f"{counted(one.threads, 'thread')} {figure(one.read_gbps, 'GB/s')}" for one in bandwidth)
    first = bandwidth[0]
    where = {True: "beyond", False: "NOT beyond", None: "perhaps not beyond"}[first.beyond_last_level_cache]
    size = mebibytes(first.size_bytes)
    origin = f" from {sources[0]}" if sources[0] else ""
    text = f"Read bandwidth{origin}: {each} (working set {size}, {where} the last-level cache)."
    return text + (f" Unknown because {first.reason}." if first.reason else "")
