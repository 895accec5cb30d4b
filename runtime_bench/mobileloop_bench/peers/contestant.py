"""What a peer is: a name, how it is built, and the commands that time its turns, each in a process of its own.

Adding a peer is one file with a subclass of `Contestant`, and one line in `contestants.py`.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mobileloop_bench.measure.process import Command, Entry
from mobileloop_bench.peers.builds import Say, Store

BUILD = "python -m mobileloop_bench.peers build"


@dataclass(frozen=True)
class Source:
    """The checkpoint that an artifact was exported from; `path` is None where it is not at hand."""

    name: str
    sha256: str
    path: Path | None


@dataclass(frozen=True)
class Repetition:
    """How often blocks are applied: each `times` in a row, or all of them `times` over (`whole_stack`).

    Attributes:
        loop_end_norm: the final norm behind each time over the whole stack, as in Nanbeige and Ouro.
    """

    times: int = 1
    whole_stack: bool = False
    loop_end_norm: bool = False

    def __str__(self) -> str:
        if self.times == 1:
            return "every block once"
        normed = ", normed each time" if self.loop_end_norm else ""
        return f"{'the whole stack' if self.whole_stack else 'every block'} {self.times} times{normed}"


ONCE = Repetition()


class Contestant(ABC):
    """One runtime; stateless, everything it keeps is in the store."""

    name: ClassVar[str]

    @abstractmethod
    def missing(self, store: Store) -> str | None:
        """Why it cannot run, with what to do about it; None where it can."""

    @abstractmethod
    def build(self, store: Store, say: Say) -> None:
        """Fetch and build what is missing; the only step that touches the network."""

    @abstractmethod
    def versions(self, store: Store) -> dict[str, str]:
        """What a result must say of it."""

    @abstractmethod
    def entry(self, store: Store, source: Source, repetition: Repetition) -> Entry:
        """What it runs in `mobileloop bench`; nothing is built for it and nothing fetched.

        Args:
            store: what was built.
            source: the checkpoint whose weights are to run.
            repetition: how often every block is applied, and in which order.

        Raises:
            MobileloopError: why it cannot run these weights that often, with what to do about it.
        """


def worker(module: str, request: Mapping[str, Any], path: Sequence[str] = (), **environment: str) -> Command:
    """A command that runs `work(request)` of a contestant's module in a fresh Python process.

    Args:
        module: its name in this package.
        request: what `work` gets.
        path: folders before everything else on the module search path.
        environment: added to this process's.
    """
    paths = [*path, *(entry or os.getcwd() for entry in sys.path)]
    return Command(
        argv=[sys.executable, "-m", "mobileloop_bench.peers.worker", module],
        request=request,
        environment={"PYTHONPATH": os.pathsep.join(paths), **environment},
    )
