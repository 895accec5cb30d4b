"""How figures are written for people; an unknown is the word "unknown"."""

from __future__ import annotations

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


def beside(busy: int) -> str:
    """`beside 2 busy processes`."""
    return f"beside {busy} busy process" + ("" if busy == 1 else "es")
