"""The engine's session: a memory-mapped safetensors artifact run by the C++ library."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from mobileloop.artifact import ArtifactInfo
from mobileloop.errors import MobileloopError
from mobileloop.runtimes import abi, native
from mobileloop.runtimes.base import F32, Session, check_sequences
from mobileloop.runtimes.streaming import (
    CALIBRATION_SECONDS,
    MODES,
    Streaming,
    memory_key,
    recall,
    remember,
    streams_anything,
)
from mobileloop.runtimes.topology import MAX_CPUS, write_cpus
from mobileloop.spec.halting import Halting


def read_info(path: Path) -> ArtifactInfo:
    """The metadata of an engine artifact.

    Raises:
        MobileloopError: where the file is damaged, cut short, newer, or no engine artifact.
    """
    try:
        with safe_open(str(path), framework="np") as stored:
            metadata = stored.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise MobileloopError(f"{path} is damaged or cut short ({error}); export it again.") from None
    if "mobileloop" not in metadata:
        raise MobileloopError(
            f"{path} holds no mobileloop metadata, so it is a checkpoint and not an artifact; export it first."
        )
    try:
        data = json.loads(metadata["mobileloop"])
    except (ValueError, RecursionError) as error:
        raise MobileloopError(f"the metadata of {path} is damaged ({error}); export it again.") from None
    return ArtifactInfo.parse(data, str(path))


def preload() -> None:
    """Load what every session needs, so that a measurement can leave it out."""
    native.library()


class EngineSession(Session):
    """One sequence on the engine, or several over the same weights; weights stay clean file pages.

    The methods of `Session` speak of sequence 0. The others, and several at once, go through `run` and `fork`:

        >>> session = EngineSession(path, sequences=4)  # doctest: +SKIP
        >>> logits = session.prefill(prompt)  # sequence 0
        >>> for copy in (1, 2, 3):
        ...     session.fork(0, copy)  # the prompt ran once
        >>> session.run([0, 1, 2, 3], [[5], [6], [7], [8]])  # one decoded token each: [4, vocab]

    A sequence gets the same bits in any company as alone. The loop count may also change from call to call (`loops` of
    a call, None for the session's own), and a token may halt before it (docs/loop-operator.md).

    Attributes:
        sequences: how many the session holds.
        applied: loops that each token of the last call ran, [stages, sequences, tokens] uint32.
        loop_counts: how often a token ran n loops of a looped stage since the last reset, [max_loops + 1] int64.
    """

    runtime = "engine"

    def __init__(
        self,
        path: Path,
        *,
        threads: int = 0,
        loops: int | None = None,
        sequences: int = 1,
        halting: Halting | None = None,
        streaming: Streaming | None = None,
        cpus: Sequence[int] | None = None,
    ) -> None:
        """Map the artifact and allocate a KV cache per sequence (touched only as the sequence grows).

        Args:
            path: of the artifact.
            threads: 0 is one per cpu of `cpus`, or without it one per big core.
            loops: of the looped stages; None is the artifact's own.
            sequences: that run together over the same weights.
            halting: rule of the looped stages; None is each stage's own.
            cpus: as many as threads bind thread i to the i-th, else every thread runs on any of them; None keeps to
                the big cores where there are others and the threads are no more than those.

        Raises:
            MobileloopError: where the file is damaged, or an argument out of bounds.
        """
        self._session = ctypes.c_void_p()
        super().__init__(path, read_info(path), threads, loops, cpus)
        check_sequences(sequences)
        self.sequences = sequences
        self._slowed_down = 0.0
        self._looped = [stage.looped for stage in self.info.schedule.stages]
        self._blocks = np.array([len(stage.blocks) for stage in self.info.schedule.stages])
        self._forget_counts()
        engine = native.library()
        self._kernels = native.kernels()
        model = ctypes.c_void_p()
        native.check(engine.ml_model_open(os.fsencode(path), ctypes.byref(model)))
        made = ctypes.byref(self._session)
        try:
            native.check(engine.ml_session_create(model, self.threads, loops or 0, sequences, made))
        finally:
            engine.ml_model_close(model)  # the session keeps what it needs
        if cpus is not None:
            native.check(engine.ml_session_place(self._session, native.cpu_array(cpus), len(cpus)))
        if halting is not None:
            self.set_halting(halting)
        self.streaming = self._stream(streaming or Streaming("off"), halting)

    def _stream(self, wanted: Streaming, halting: Halting | None) -> Streaming:
        """Take a streaming mode; `auto` is what was found before, or what a calibration finds now."""
        key = None
        if wanted.mode == "auto":
            if not streams_anything(self.info, self.requested_loops):
                return Streaming("off")
            where = self.placement().get("cpus", "")
            key = memory_key(self.info, self.requested_loops, halting, self.threads, self._kernels, where)
            wanted = recall(key, self.threads) or wanted
        engine = native.library()
        if wanted.mode != "auto":
            native.check(engine.ml_session_stream(self._open(), MODES.index(wanted.mode), wanted.threads))
            return wanted
        mode, threads = ctypes.c_uint32(), ctypes.c_uint32()
        places = ctypes.byref(mode), ctypes.byref(threads)
        native.check(engine.ml_session_calibrate(self._open(), CALIBRATION_SECONDS, *places))
        found = Streaming(MODES[mode.value], threads.value)
        assert key is not None
        remember(key, found)
        return found

    def set_halting(self, halting: Halting | None) -> None:
        """Take a halting rule for the looped stages from here on; None is each stage's own.

        Raises:
            MobileloopError: where the rule is out of bounds, or needs what the artifact does not hold.
        """
        self.info.schedule.check_halting(halting, self.info.config.exit_gate)
        args = None
        if halting is not None:
            numbers = (abi.HALTING_RULES[halting.rule], halting.min_loops, halting.threshold)
            args = ctypes.pointer(abi.HaltingArgs(*numbers))
        native.check(native.library().ml_session_set_halting(self._open(), args))

    def time_stages(self, on: bool = True) -> bool:
        """Let every run from here on note where its time goes, at the cost of a clock read per loop; off at first."""
        native.check(native.library().ml_session_time(self._open(), on))
        return True

    def stage_times(self) -> list[tuple[str, list[float]]]:
        """Where the time of the last run went: a row of `Schedule.stage_rows`, or "head", and the ms of each loop.

        The calling thread's clock. Waking the threads counts to a first loop, waiting for the last of them to a last
        one, and the embedding nowhere. Loops that no stage of a row ran are left out.

        Raises:
            MobileloopError: where `time_stages` was not called before that run.
        """
        schedule = self.info.schedule
        stages, loops = len(schedule.stages), schedule.max_loops
        ns = (ctypes.c_uint64 * (stages * loops + 1))()
        native.check(native.library().ml_session_times(self._open(), ns, len(ns)))
        ms = np.array(ns[: stages * loops]).reshape(stages, loops) / 1e6
        rows = [(name, ms[list(places)].sum(axis=0)) for name, places in schedule.stage_rows()]
        return [*((name, [float(one) for one in times[times > 0]]) for name, times in rows), ("head", [ns[-1] / 1e6])]

    def slow_down(self, share: float) -> None:
        """Make every run from here on wait until it took 1 + `share` times its time, so that a test of `compare` has
        something to find; `details` say so.

        Raises:
            MobileloopError: where `share` is outside 0-10.
        """
        native.check(native.library().ml_session_slow_down(self._open(), share))
        self._slowed_down = share

    @property
    def positions(self) -> list[int]:
        """Tokens that each sequence has run."""
        engine = native.library()
        return [engine.ml_session_position(self._open(), s) for s in range(self.sequences)]

    @property
    def mean_applications(self) -> float | None:
        """Executions of a block per token since the last reset; None where nothing has run."""
        return self._applications / self._tokens if self._tokens else None

    def run(
        self,
        sequences: Sequence[int],
        tokens: Sequence[Sequence[int]],
        all_logits: bool = False,
        loops: int | None = None,
    ) -> F32:
        """Run tokens of several sequences in one pass over the weights, each behind what its sequence ran before.

        Args:
            sequences: which, all different.
            tokens: a row for each of them, all of one length.
            all_logits: of every token instead of the last ones.
            loops: of the looped stages in this call; None is the session's count.

        Returns:
            [sequences, vocab], or with `all_logits` [sequences, tokens, vocab].

        Raises:
            MobileloopError: for a sequence out of bounds or named twice, rows of different lengths, a token outside the
                vocabulary, loops out of bounds, or more tokens than the context holds; nothing has run then.
        """
        self.info.schedule.check_loops(loops)
        session = self._open()
        counts = {len(row) for row in tokens}
        if len(sequences) != len(tokens) or len(counts) != 1:
            raise MobileloopError(
                f"{len(sequences)} sequences came with {len(tokens)} rows of {sorted(counts)} tokens; give every "
                "sequence one row, all of the same length."
            )
        self._check_sequences(sequences)
        before = self.positions
        for sequence, row in zip(sequences, tokens, strict=True):
            self._check(row, before[sequence])
        which, ids = np.asarray(sequences, dtype=np.uint32), np.asarray(tokens, dtype=np.int64)
        shape = (*ids.shape, self.info.config.vocab_size) if all_logits else (len(ids), self.info.config.vocab_size)
        logits = np.empty(shape, dtype=np.float32)
        applied = np.empty((len(self._looped), *ids.shape), dtype=np.uint32)
        args = abi.RunArgs(
            which.ctypes.data,
            which.size,
            ids.ctypes.data,
            ids.shape[1],
            all_logits,
            logits.ctypes.data,
            logits.size,
            loops or 0,
            applied.ctypes.data,
            applied.size,
        )
        native.check(native.library().ml_session_run(session, ctypes.byref(args)))
        self.applied = applied
        self.loop_counts += np.bincount(applied[self._looped].ravel(), minlength=self.loop_counts.size)
        self._applications += int(applied.sum(axis=(1, 2), dtype=np.int64) @ self._blocks)
        self._tokens += ids.size
        self.position = self.positions[0]
        return logits

    def fork(self, source: int, target: int) -> None:
        """Make `target` a copy of sequence `source`, its KV cache included.

        Raises:
            MobileloopError: for a sequence out of bounds.
        """
        self._check_sequences((source, target))
        native.check(native.library().ml_session_fork(self._open(), source, target))
        self.position = self.positions[0]

    def reset_sequence(self, sequence: int) -> None:
        """Forget one sequence; `reset` forgets all.

        Raises:
            MobileloopError: for a sequence out of bounds.
        """
        self._check_sequences((sequence,))
        native.check(native.library().ml_session_reset_sequence(self._open(), sequence))
        self.position = self.positions[0]

    def prefill(self, tokens: Sequence[int], loops: int | None = None) -> F32:
        """Run `tokens` of sequence 0; logits [vocab] of the last one."""
        logits: F32 = self.run([0], [tokens], loops=loops)[0]
        return logits

    def decode(self, token: int, loops: int | None = None) -> F32:
        """Run one token of sequence 0; logits [vocab]."""
        return self.prefill([token], loops)

    def logits(self, tokens: Sequence[int], loops: int | None = None) -> F32:
        """Run `tokens` of sequence 0; logits [tokens, vocab] of every one."""
        logits: F32 = self.run([0], [tokens], all_logits=True, loops=loops)[0]
        return logits

    def details(self) -> dict[str, str]:
        """The kernel set that runs, how blocks are streamed, and the cpus that the threads keep to."""
        slowed = {"slowed_down": f"{self._slowed_down:g}"} if self._slowed_down else {}
        return {"kernels": self._kernels, "stream": str(self.streaming), **self.placement(), **slowed}

    def placement(self) -> dict[str, str]:
        """The cpus that the threads keep to, the big cores where the engine chose them."""
        cpus = native.cpu_array([0] * MAX_CPUS)
        count = native.library().ml_session_cpus(self._session, cpus, MAX_CPUS) if self._session else 0
        return {"cpus": write_cpus(cpus[:count])} if count else {}

    def close(self) -> None:
        """Unmap the artifact and end the threads."""
        if self._session:
            native.library().ml_session_destroy(self._session)
            self._session = ctypes.c_void_p()

    def _open(self) -> ctypes.c_void_p:
        if not self._session:
            raise MobileloopError("this session was closed; open the artifact again.")
        return self._session

    def _check_sequences(self, sequences: Sequence[int]) -> None:
        for sequence in sequences:
            if not 0 <= sequence < self.sequences:
                raise MobileloopError(
                    f"sequence {sequence} is outside 0-{self.sequences - 1}, the sequences of this session; open it "
                    "with more of them."
                )

    def _evaluate(self, tokens: Sequence[int], all_logits: bool) -> F32:
        logits: F32 = self.run([0], [tokens], all_logits).reshape(-1, self.info.config.vocab_size)
        return logits

    def _forget_counts(self) -> None:
        self.applied = np.zeros((len(self._looped), 0, 0), dtype=np.uint32)
        self.loop_counts = np.zeros(self.info.schedule.max_loops + 1, dtype=np.int64)
        self._applications = self._tokens = 0

    def _clear(self) -> None:
        self._forget_counts()
        native.check(native.library().ml_session_reset(self._open(), self.requested_loops or 0))

    def __del__(self) -> None:
        if getattr(self, "_session", None):
            self.close()
