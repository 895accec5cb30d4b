"""Who else used the cores while we measured: a figure taken beside another program is not valid.

procfs counts in clock ticks (10 ms), so only sums over whole turns mean anything. `neighbours` are other programs on
purpose: what is left beside them is a figure too.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from mobileloop_bench.measure.samples import Interference


class Watch:
    """`with Watch(interference):` adds the processor time that others used inside the block.

    `children` counts the processes that were started and waited for inside the block as our own.
    """

    def __init__(self, into: Interference, children: bool = False) -> None:
        self._into = into
        self._children = children

    def __enter__(self) -> None:
        self._wall, self._own, self._busy = time.perf_counter(), self._own_s(), _busy_and_stolen()
        self._switches = _involuntary_switches(self._children)

    def __exit__(self, *error: object) -> None:
        busy, into = _busy_and_stolen(), self._into
        into.wall_s += time.perf_counter() - self._wall
        switches = _involuntary_switches(self._children)
        if into.switches is None or switches is None or self._switches is None:
            into.switches = None
        else:
            into.switches += switches - self._switches
        if busy is None or self._busy is None:
            into.known = False
            return
        into.other_s += busy[0] - self._busy[0] - (self._own_s() - self._own)
        into.stolen_s += busy[1] - self._busy[1]

    def _own_s(self) -> float:
        if not self._children:
            return time.process_time()
        times = os.times()
        return time.process_time() + times.children_user + times.children_system


def _busy_and_stolen() -> tuple[float, float] | None:
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[1:9])
    except (OSError, ValueError):
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    busy = (user + nice + system + irq + softirq) / ticks
    return (busy, steal / ticks) if busy else None  # sandboxes show zeros


def _involuntary_switches(children: bool) -> int | None:
    """Of all threads of this process so far, and of its children that have ended."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return None
    who = [resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN] if children else [resource.RUSAGE_SELF]
    return sum(resource.getrusage(one).ru_nivcsw for one in who)


# Ends by itself when we are gone; it asks only now and then, so that it computes and does not call the kernel.
_BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1000000):
        pass
"""


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """`count` processes that compute all the time, at normal priority."""
    argv = [sys.executable, "-c", _BUSY]
    quiet = subprocess.DEVNULL  # Ctrl-C reaches them too, and they would complain
    started = [subprocess.Popen(argv, stdin=quiet, stderr=quiet) for _ in range(count)]
    try:
        if started:
            time.sleep(0.2)  # until they do
        yield
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()
