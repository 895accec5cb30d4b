"""Hardware events: refused in a sentence, or counted in threads that start later."""

import mmap
import threading
from pathlib import Path

import pytest

from mobileloop_bench.measure import counters
from mobileloop_bench.measure.counters import Counters, between


def test_events_between_two_readings_are_scaled_to_the_whole_time() -> None:
    before = {"cycles": (100, 10, 10), "instructions": (5, 10, 10), "llc_misses": (7, 10, 4)}
    after = {"cycles": (300, 30, 30), "instructions": (15, 30, 15), "llc_misses": (7, 30, 4)}
    assert between(before, after) == {"cycles": 200, "instructions": 40}  # of the third nothing was counted


def test_what_is_refused_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/perf_event_paranoid").write_text("4\n")

    def refused(number: int, kind: int, event: int) -> int:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(counters, "_opened", refused)
    monkeypatch.setattr(counters.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(counters.platform, "system", lambda: "Linux")
    found = Counters(tmp_path)
    assert found.reason == (
        "perf_event_open of cycles was refused (Permission denied; kernel.perf_event_paranoid is 4)"
    )
    assert found.read() == {}
    found.close()


def test_a_system_without_them_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters.platform, "machine", lambda: "riscv64")
    assert Counters().reason == "perf_event_open is not known for this system"


@pytest.mark.parametrize("event", ["instructions", "page_faults"])
def test_a_thread_that_starts_later_is_counted(event: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if event == "page_faults":  # the kernel's own count, which virtual machines have too
        monkeypatch.setattr(counters, "EVENTS", {"page_faults": (1, 2)})
    counting = Counters()
    if counting.reason:
        pytest.skip(counting.reason)
    pages = 2000

    def touch() -> None:
        memory = mmap.mmap(-1, pages * mmap.PAGESIZE)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(pages):
            memory[page * mmap.PAGESIZE] = 1

    before = counting.read()
    thread = threading.Thread(target=touch)
    thread.start()
    thread.join()
    assert between(before, counting.read())[event] >= pages / 2
    counting.close()
    assert counting.read() == {}
