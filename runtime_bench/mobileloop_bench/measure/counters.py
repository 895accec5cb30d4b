"""Hardware events of this process and of every thread that it starts afterwards, by perf_event_open of Linux.

Where the kernel, a hypervisor or Android refuses, there are no events and one sentence says why. Only user space is
counted: that needs no privilege up to kernel.perf_event_paranoid 2, and means the same on every machine.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Mapping
from pathlib import Path

from mobileloop_bench.machine.sysfs import ROOT, read_text

# perf_event_open(2): type (0 is PERF_TYPE_HARDWARE) and config.
EVENTS = {"cycles": (0, 0), "instructions": (0, 1), "llc_misses": (0, 3)}
SYSTEM_CALLS = {"x86_64": 298, "aarch64": 241}
ATTRIBUTES = struct.Struct("=IIQQQQQ16x")  # perf_event_attr of version 0, 64 bytes
INHERIT, EXCLUDE_KERNEL, EXCLUDE_HYPERVISOR = 1 << 1, 1 << 5, 1 << 6
ENABLED_AND_RUNNING = 1 | 2  # read_format: both times behind the value
CLOSE_ON_EXEC = 1 << 3
READING = struct.Struct("=QQQ")

Reading = Mapping[str, tuple[int, int, int]]


class Counters:
    """Counts from the moment it is made; threads that run already are not seen, so it is made before any session.

    Attributes:
        reason: why there are no events; None where there are.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._files: dict[str, int] = {}
        self.reason: str | None = None
        number = SYSTEM_CALLS.get(platform.machine())
        if platform.system() != "Linux" or number is None:
            self.reason = "perf_event_open is not known for this system"
            return
        for name, (kind, event) in EVENTS.items():
            try:
                self._files[name] = _opened(number, kind, event)
            except OSError as error:
                self.reason = f"perf_event_open of {name} was refused ({error.strerror}{_paranoid(root)})"
                self.close()
                return

    def read(self) -> Reading:
        """Value, time enabled and time running of every event, to be given to `between`."""
        found = {}
        for name, file in self._files.items():
            value, enabled, running = READING.unpack(os.read(file, READING.size))
            found[name] = (value, enabled, running)
        return found

    def close(self) -> None:
        """Stop counting."""
        while self._files:
            os.close(self._files.popitem()[1])


def between(before: Reading, after: Reading) -> dict[str, float]:
    """Events between two readings, scaled up where the processor counted them only part of the time.

    An event that was not counted at all meanwhile is left out.
    """
    found = {}
    for name, (value, enabled, running) in after.items():
        earlier = before[name]
        counted = running - earlier[2]
        if counted > 0:
            found[name] = (value - earlier[0]) * (enabled - earlier[1]) / counted
    return found


def _opened(number: int, kind: int, event: int) -> int:
    flags = INHERIT | EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR
    packed = ATTRIBUTES.pack(kind, ATTRIBUTES.size, event, 0, 0, ENABLED_AND_RUNNING, flags)
    attributes = ctypes.create_string_buffer(packed, ATTRIBUTES.size)
    system = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.byref(attributes), 0, -1, -1, ctypes.c_ulong(CLOSE_ON_EXEC))  # this process on any cpu
    file = int(system.syscall(ctypes.c_long(number), *arguments))
    if file < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return file


def _paranoid(root: Path) -> str:
    level = read_text(root / "proc/sys/kernel/perf_event_paranoid")
    return "" if level is None else f"; kernel.perf_event_paranoid is {level}"
