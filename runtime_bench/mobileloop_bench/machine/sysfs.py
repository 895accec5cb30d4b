"""Small files of procfs and sysfs; what is missing, forbidden or malformed is None."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path("/")
CPUS = "sys/devices/system/cpu"
MAX_CHARACTERS = 1 << 20  # procfs of a machine with hundreds of cpus; nothing longer is looked at


def read_text(path: Path) -> str | None:
    """The text of a file without the blanks and NULs around it; None for an empty one too."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(MAX_CHARACTERS).strip(" \t\r\n\0") or None
    except OSError:
        return None


def read_number(path: Path) -> int | None:
    """The whole number that a file holds."""
    text = read_text(path)
    return int(text) if text and re.fullmatch(r"-?[0-9]{1,18}", text) else None
