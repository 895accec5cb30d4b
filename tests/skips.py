"""A pytest plugin: what a run may skip, the table of what it skipped, and `MOBILELOOP_TESTS=all`.

On a bare machine a test whose tool is missing is skipped, and the run ends with a table of what to install. Under
`MOBILELOOP_TESTS=all` a skip is a failure, but for the tests listed below.
"""

from __future__ import annotations

import itertools
import os
import re
import textwrap
from collections import Counter
from collections.abc import Generator, Mapping
from typing import Any

import pytest
from tools import TOOLS

VARIABLE = "MOBILELOOP_TESTS"
WIDTH = 80

# Name of a test -> (what its skip says, why no package helps). Anything else that is skipped fails a whole run.
THREAD_SANITIZER = (
    r"^this kernel's address layout does not suit ThreadSanitizer",
    "a setting of the kernel decides it",
)
PEERS = (
    r"not built; build it once with|no peer was built|no artifact of the same weights",
    "building the peers takes longer than all tests: make bench-peers",
)
SEVERAL_CPUS = (r"^one cpu leaves nothing to choose", "it needs a machine of several processors")
EXCUSED = {
    "test_a_thread_that_starts_later_is_counted": (
        r"^perf_event_open",
        "virtual machines and containers hide the processor's counters",
    ),
    "test_it_runs": (
        r"^this machine hides the size of its L2",
        "some virtual machines hide the sizes of their caches",
    ),
    "test_another_machines_file_is_refused_before_anything_is_measured": (
        r"^this machine does not name its processor",
        "some boards and emulators name none",
    ),
    "test_equal_cores_are_left_alone": (
        r"^this machine has cores that are not big",
        "it needs a machine whose cores are alike",
    ),
    "test_a_session_on_cpus": SEVERAL_CPUS,
    "test_confined": SEVERAL_CPUS,
    "test_a_real_peer_in_a_real_run": PEERS,
    "test_llamas_own_loop_says_what_we_say": PEERS,
    "test_engine_tests": THREAD_SANITIZER,
    "test_sharing_and_failing_memory": THREAD_SANITIZER,
}


def excuse(nodeid: str, reason: str) -> str | None:
    """Why this test may be skipped in a whole run, or None."""
    name = nodeid.rpartition("::")[2].partition("[")[0]
    said, why = EXCUSED.get(name, ("", ""))
    return why if said and re.search(said, reason) else None


def remedy(reason: str) -> str:
    """What to install against a skip of this reason; empty where the reason has to say it."""
    if "ARM64_CXX=zig" in reason:
        return "make test-tools builds it"
    for tool in TOOLS:
        if any(program in reason for program in tool.programs):
            return f"install {' '.join(tool.packages)}"
    return ""


def table(skipped: Mapping[tuple[str, str], int], width: int = WIDTH) -> list[str]:
    """Lines of at most `width` characters, one paragraph for each reason.

    Args:
        skipped: (reason, what to do) -> number of tests.
    """
    lines = [f"{'tests':>5}  {'not run because':<40} {'what to do'}"]
    for (reason, way), count in sorted(skipped.items(), key=lambda one: (-one[1], one[0])):
        left, right = textwrap.wrap(reason, 39), textwrap.wrap(way, width - 48)
        for row, (why, what) in enumerate(itertools.zip_longest(left, right, fillvalue="")):
            lines.append(f"{count if row == 0 else '':>5}  {why:<40} {what}".rstrip())
    return lines


class Skips:
    """Turns skips into failures in a whole run, and counts them in any other."""

    def __init__(self, whole: bool) -> None:
        self.whole = whole
        self.seen: dict[str, tuple[str, str]] = {}  # test or file -> (reason, what to do)

    def judged(self, report: Any) -> Any:
        """The report of a test or a file; in a whole run a failed one where it was skipped without an excuse."""
        if not report.skipped or hasattr(report, "wasxfail") or not self.whole:
            return report
        reason = reason_of(report)
        if excuse(report.nodeid, reason) is None:
            report.outcome = "failed"
            report.longrepr = (
                f"{report.nodeid} was skipped: {reason}\n{VARIABLE}=all allows no skip but those that "
                f"tests/skips.py lists; install what is missing with: make test-tools"
            )
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, Any, Any]:
        return self.judged((yield))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(self) -> Generator[None, Any, Any]:
        return self.judged((yield))

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.count(report)

    def pytest_collectreport(self, report: Any) -> None:
        self.count(report)

    def count(self, report: Any) -> None:
        """Remember a skip; several workers report a skipped file each, which counts once."""
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = reason_of(report)
            cannot = excuse(report.nodeid, reason)
            self.seen[report.nodeid] = (reason, f"nothing: {cannot}" if cannot else remedy(reason))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self.seen:
            return
        terminalreporter.section("what was skipped", "-")
        for line in table(Counter(self.seen.values())):
            terminalreporter.line(line)
        if any(way.startswith("install") for _, way in self.seen.values()):
            terminalreporter.line("On Debian and Ubuntu `make test-tools` installs what is to be installed.")


def reason_of(report: Any) -> str:
    """What a skip said, in one line."""
    said = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return " ".join(said.removeprefix("Skipped: ").split())


def install(config: Any) -> None:
    """Register the plugin; `pytest_configure` of conftest.py calls it.

    Raises:
        pytest.UsageError: where the variable holds something unknown.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "all"):
        raise pytest.UsageError(f"{VARIABLE} is {wanted!r}; it is 'all' or not set")
    config.pluginmanager.register(Skips(wanted == "all"), "skips")
