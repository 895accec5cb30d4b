"""Hardware events: refused in a sentence, or counted in threads that start later."""

import threading
from pathlib import Path

import pytest

from mobileloop_bench import counters
from mobileloop_bench.counters import Counters, between


def test_events_between_two_readings_are_scaled_to_the_whole_time() -> None:
    before = {"cycles": (100, 10, 10), "instructions": (5, 10, 10), "llc_misses": (7, 10, 4)}
    after = {"cycles": (300, 30, 30), "instructions": (15, 30, 15), "llc_misses": (7, 30, 4)}
    assert between(before, after) == {"cycles": 200, "instructions": 40}  # of the third nothing was counted


def test_what_is_refused_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/perf_event_paranoid").write_text("4\n")

    def refused(number: int, event: int) -> int:
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


def test_a_thread_that_starts_later_is_counted() -> None:
    counting = Counters()
    if counting.reason:
        pytest.skip(counting.reason)
    work = 200_000

    def loop() -> None:
        for _ in range(work):
            pass

    before = counting.read()
    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()
    found = between(before, counting.read())
    assert found["instructions"] > work  # an iteration of the interpreter takes many
    counting.close()
