"""A pytest plugin for `pytest -n`: which worker runs what, and the tests that get the machine for themselves.

A test marked `alone` measures, or needs every core: no other test runs while it does, in this run or another one of the
same checkout. Tests of one function share a worker; a file marked `long` begins first, so that no worker ends late.
"""

from __future__ import annotations

import fcntl
from collections.abc import Generator
from typing import Any

import pytest


class Cores:
    """Locks around tests, and their order."""

    def __init__(self, folder: Any) -> None:
        self.folder = folder

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Long files first, and last what would keep the other workers waiting; every worker sorts alike."""
        items.sort(key=lambda item: 2 if "alone" in item.keywords else 0 if "long" in item.keywords else 1)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: Any) -> Generator[None, Any, Any]:
        """Hold `room` shared, or alone; whoever waits for it holds `door`, so that no new test slips in before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "tests.door").open("w") as door, (self.folder / "tests.room").open("w") as room:
            fcntl.flock(door, fcntl.LOCK_EX)
            fcntl.flock(room, fcntl.LOCK_EX if "alone" in item.keywords else fcntl.LOCK_SH)
            fcntl.flock(door, fcntl.LOCK_UN)
            try:
                return (yield)
            finally:
                fcntl.flock(room, fcntl.LOCK_UN)  # a child of the test may have the file open still

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: Any, log: Any) -> Any:
        """Functions go out in the order of their collection, each with all its parameters."""
        from xdist.scheduler import LoadScopeScheduling

        class ByFunction(LoadScopeScheduling):
            def _split_scope(self, nodeid: str) -> str:
                return nodeid.partition("[")[0]

        config.option.loadscopereorder = False
        return ByFunction(config, log)


def install(config: Any) -> None:
    """Register the plugin; `pytest_configure` of conftest.py calls it."""
    config.addinivalue_line("markers", "alone: measures or needs every core; no other test runs beside it")
    config.addinivalue_line("markers", "long: begins before the other tests")
    config.pluginmanager.register(Cores(config.rootpath / "build"), "cores")
