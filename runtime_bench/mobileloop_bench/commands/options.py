"""Options that commands of the bench share."""

from __future__ import annotations


def complete_machines(incomplete: str) -> list[str]:
    """Shipped machine files by name."""
    from mobileloop_bench.machine.file import shipped

    return [name for name in shipped() if name.startswith(incomplete)]
