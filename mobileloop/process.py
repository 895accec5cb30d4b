"""What the kernel says of this process's memory."""

from __future__ import annotations

import re
from pathlib import Path


def memory_status() -> dict[str, int]:
    """Sizes of /proc/self/status in bytes by name (RssAnon, RssFile, VmHWM, ...); empty where the kernel hides them.

    VmHWM is this process's own high-water mark, while getrusage's ru_maxrss carries that of its parent over.
    """
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    return {name: int(kb) * 1024 for name, kb in re.findall(r"^(\w+):\s*(\d+) kB$", text, re.M)}
