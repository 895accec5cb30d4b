"""How a session streams what is read next while resident blocks run again, and what calibration found before.

`auto` times every mode at the first session of a model on a machine, for a second, and remembers the fastest in a file
of the user's cache folder. Losing that file costs another second; nothing in it changes a result.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mobileloop.artifact import ArtifactInfo
from mobileloop.errors import MobileloopError
from mobileloop.files import cache_path, written_whole
from mobileloop.spec.halting import Halting

MODES = ("off", "prefetch", "core")  # numbered as ml_stream
CALIBRATION_SECONDS = 1.0
SMALLEST_BYTES = 8 << 20  # of weights; a model below lies in some cache whole, and streams nothing
_KEPT = 256  # models remembered


@dataclass(frozen=True)
class Streaming:
    """A mode of `MODES`, or `auto`; `threads` stream in mode `core`, 0 in the others."""

    mode: str
    threads: int = 0

    @classmethod
    def parse(cls, text: str) -> Streaming:
        """Read off, prefetch, core, core:N or auto.

        Raises:
            MobileloopError: for anything else.
        """
        if text in ("off", "prefetch", "auto"):
            return cls(text)
        if match := re.fullmatch(r"core(?::([1-9]\d{0,2}))?", text):
            return cls("core", int(match[1] or 1))
        raise MobileloopError(f"the streaming mode '{text}' is not known; write off, prefetch, core, core:N or auto.")

    def __str__(self) -> str:
        return f"core:{self.threads}" if self.mode == "core" else self.mode


def streams_anything(info: ArtifactInfo, loops: int | None) -> bool:
    """Whether a session of `info` could gain: some stage runs more than once, and the weights are beyond a cache."""
    looped = any(stage.loops_for(loops) > 1 for stage in info.schedule.stages)
    return looped and info.costs.weight_bytes >= SMALLEST_BYTES


def memory_key(
    info: ArtifactInfo, loops: int | None, halting: Halting | None, threads: int, kernels: str, cpus: str
) -> str:
    """Names what a calibration holds for: this machine, model, loops, halting, threads and their cpus, kernel set."""
    machine = [platform.machine(), platform.node(), _processor(), os.cpu_count()]
    rule = None if halting is None else halting.model_dump()
    model = info.model_dump_json(exclude={"tokenizer"})
    return hashlib.sha256(json.dumps([machine, model, loops, rule, threads, kernels, cpus]).encode()).hexdigest()[:32]


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Hardware", "CPU part")):
                return line
    return ""


def memory_path() -> Path:
    """The file of remembered calibrations."""
    return cache_path("streaming.json")


def _remembered() -> dict[str, str]:
    try:
        held = json.loads(memory_path().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, RuntimeError):  # RuntimeError: a user without a home
        return {}
    return {k: v for k, v in held.items() if isinstance(v, str)} if isinstance(held, dict) else {}


def recall(key: str, threads: int) -> Streaming | None:
    """What a calibration of `key` found, if there was one and `threads` can do it."""
    with suppress(MobileloopError):
        found = Streaming.parse(_remembered().get(key, ""))
        return found if found.mode != "auto" and found.threads < threads else None
    return None


def remember(key: str, found: Streaming) -> None:
    """Keep what a calibration found; where nothing can be written, the next session calibrates again."""
    held = _remembered()
    held.pop(key, None)
    held[key] = str(found)
    with suppress(OSError, MobileloopError, RuntimeError):
        memory_path().parent.mkdir(parents=True, exist_ok=True)
        with written_whole(memory_path()) as temporary:
            temporary.write_text(json.dumps(dict(list(held.items())[-_KEPT:])), encoding="utf-8")
