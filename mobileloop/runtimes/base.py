"""The interface every runtime offers: prefill, decode, reset and the loop count."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on

from mobileloop.artifact import ArtifactInfo, check_tokens
from mobileloop.errors import MobileloopError
from mobileloop.runtimes import native
from mobileloop.runtimes.topology import check_cpus, write_cpus
from mobileloop.spec.capabilities import Asked, check_runs

F32 = NDArray[np.float32]
MAX_THREADS = 256  # the engine's bound
MAX_SEQUENCES = 1024  # the engine's bound


class SessionOptions(TypedDict, total=False):
    """What `open_session` takes besides threads, loops and what runs: the same for every session of a bench."""

    onnx_kernel: str
    stream: str
    cpus: Sequence[int] | None


def available_threads() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads(cpus: Sequence[int] | None = None) -> int:
    """Threads where none are asked for: as many as `cpus`, else one per big core that this process may run on."""
    if cpus:
        return min(len(cpus), MAX_THREADS)
    try:
        return native.default_threads()
    except MobileloopError:  # the engine was not built; a file may run on another runtime
        return min(available_threads(), MAX_THREADS)


def check_threads(threads: int) -> None:
    """Raise MobileloopError where no runtime would take this number of threads; 0 is every big core."""
    if not 0 <= threads <= MAX_THREADS:
        raise MobileloopError(f"threads {threads} is outside 0-{MAX_THREADS}; use 0 for all big cores.")


def check_sequences(sequences: int) -> None:
    """Raise MobileloopError where no session would hold this number of sequences."""
    if not 1 <= sequences <= MAX_SEQUENCES:
        raise MobileloopError(f"{sequences} sequences are outside 1-{MAX_SEQUENCES}; choose a count in that range.")


class Session(ABC):
    """A loaded artifact with its KV cache, for one sequence.

    Subclasses load the file in `__init__` and implement `_evaluate` and `_clear`. `loops` holds for the whole
    sequence, since every loop has KV slots of its own: it changes at `reset` (the engine also takes it call by call).
    """

    runtime: str

    def __init__(
        self, path: Path, info: ArtifactInfo, threads: int, loops: int | None, cpus: Sequence[int] | None = None
    ) -> None:
        check_threads(threads)
        check_cpus(cpus)
        info.schedule.check_loops(loops)
        check_runs(f"the schedule {info.schedule.name}", self.runtime, Asked(info.schedule))
        self.path = path
        self.info = info
        self.cpus = None if cpus is None else list(cpus)
        self.threads = threads or default_threads(cpus)
        self.requested_loops = loops  # None: each stage's own count, which may differ between stages
        self.loops = loops if loops is not None else info.schedule.default_loops
        self.position = 0
        # How often a token ran n loops of a looped stage since the last reset; all 0 where the runtime does not count.
        self.loop_counts = np.zeros(info.schedule.max_loops + 1, dtype=np.int64)

    def prefill(self, tokens: Sequence[int]) -> F32:
        """Run `tokens` behind what was run before; logits [vocab] of the last one."""
        self._check(tokens, self.position)
        logits: F32 = self._evaluate(tokens, all_logits=False)[-1]
        self.position += len(tokens)
        return logits

    def decode(self, token: int) -> F32:
        """Run one token; logits [vocab]."""
        return self.prefill([token])

    def logits(self, tokens: Sequence[int]) -> F32:
        """Run `tokens`; logits [tokens, vocab] of every one."""
        self._check(tokens, self.position)
        logits = self._evaluate(tokens, all_logits=True)
        self.position += len(tokens)
        return logits

    def reset(self, loops: int | None = None) -> None:
        """Forget the sequence; `loops`, where given, holds from here on.

        Raises:
            MobileloopError: where `loops` is out of the artifact's bounds.
        """
        self.info.schedule.check_loops(loops)
        if loops is not None:
            self.loops = self.requested_loops = loops
        self.position = 0
        self._clear()

    # -- what not every runtime does; the defaults say that there is nothing ----------------------

    @property
    def mean_applications(self) -> float | None:
        """Executions of a block per token since the last reset; None where the runtime does not count them."""
        return None

    def run(
        self,
        sequences: Sequence[int],
        tokens: Sequence[Sequence[int]],
        all_logits: bool = False,
        loops: int | None = None,
    ) -> F32:
        """Run tokens of several sequences in one pass over the weights; here of sequence 0 alone.

        Raises:
            MobileloopError: for other sequences, or loops that differ from the session's.
        """
        if list(sequences) != [0] or loops not in (None, self.requested_loops):
            raise MobileloopError(f"{self.path} runs on {self.runtime}, which holds one sequence with one loop count.")
        return (self.logits(tokens[0]) if all_logits else self.prefill(tokens[0]))[None]

    def fork(self, source: int, target: int) -> None:
        """Make `target` a copy of sequence `source`; a runtime of one sequence has none."""
        raise MobileloopError(f"{self.path} runs on {self.runtime}, which holds one sequence.")

    def time_stages(self, on: bool = True) -> bool:
        """Note from here on where the time of a run goes; says whether the runtime can."""
        return False

    def stage_times(self) -> list[tuple[str, list[float]]]:
        """Every stage of the last run and the ms of its loops; empty where the runtime does not note them."""
        return []

    def slow_down(self, share: float) -> None:  # noqa: B027
        """Make the runtime slower by a share, for tests of what compares results; only the engine can."""

    def title(self) -> str:
        """The runtime, and which of its paths computes where it has several."""
        path = self.details().get("path")
        return f"{self.runtime}, {path}" if path else self.runtime

    def placement(self) -> dict[str, str]:
        """The cpus that the threads keep to, as a detail; nothing where they run anywhere."""
        return {"cpus": write_cpus(self.cpus)} if self.cpus else {}

    def details(self) -> dict[str, str]:
        """What a report should know of this runtime: versions, kernels, providers."""
        return {}

    def close(self) -> None:  # noqa: B027  (optional for a subclass)
        """Give memory and threads back."""

    def _check(self, tokens: Sequence[int], position: int) -> None:
        check_tokens(self.info, position, len(tokens))
        for token in tokens:
            if not 0 <= token < self.info.config.vocab_size:
                raise MobileloopError(
                    f"token {token} is outside the vocabulary of {self.info.config.vocab_size}; "
                    "the tokenizer does not belong to this artifact."
                )

    @abstractmethod
    def _evaluate(self, tokens: Sequence[int], all_logits: bool) -> F32:
        """Logits [tokens, vocab] (or [1, vocab] of the last token) at `self.position`."""

    @abstractmethod
    def _clear(self) -> None:
        """Forget the KV cache."""
