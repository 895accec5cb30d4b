"""Sessions: one file per runtime, one interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mobileloop.artifact import runtime_of
from mobileloop.runtimes.base import Session
from mobileloop.runtimes.streaming import Streaming
from mobileloop.spec.capabilities import Asked, check_runs
from mobileloop.spec.halting import Halting


def open_session(
    path: str | Path,
    *,
    threads: int = 0,
    loops: int | None = None,
    sequences: int = 1,
    halting: Halting | None = None,
    onnx_kernel: str = "auto",
    stream: str = "off",
    cpus: Sequence[int] | None = None,
) -> Session:
    """Open an artifact with the runtime that its suffix names.

    Args:
        path: `.safetensors` (engine), `.pte` (ExecuTorch) or `.onnx`.
        threads: 0 is one per cpu of `cpus`, or without it one per big core.
        loops: of the looped stages; None is the artifact's own.
        sequences: that run together over the same weights; above 1 on the engine only.
        halting: rule of the looped stages; None is each stage's own. On the engine only.
        onnx_kernel: of an `.onnx` artifact: "engine", "stock", or "auto" for the engine's where they were built.
        stream: how what is read next is brought towards the cache: "off", "prefetch", "core", "core:N" threads, or
            "auto" for what calibration finds. On the engine only; the others run "auto" as "off".
        cpus: that the threads run on: as many as threads bind thread i to the i-th, else every thread runs on any of
            them. Not for an `.onnx` artifact without the engine's kernels.

    Raises:
        MobileloopError: where the file, the loop count or the runtime's package is not there or not right.
    """
    streaming = Streaming.parse(stream)
    runtime = runtime_of(path)
    check_runs(str(path), runtime, Asked(halting=halting, sequences=sequences, stream=streaming.mode))
    if runtime == "engine":
        from mobileloop.runtimes.engine import EngineSession

        return EngineSession(
            Path(path),
            threads=threads,
            loops=loops,
            sequences=sequences,
            halting=halting,
            streaming=streaming,
            cpus=cpus,
        )
    if runtime == "executorch":
        from mobileloop.runtimes.executorch import ExecutorchSession

        return ExecutorchSession(Path(path), threads=threads, loops=loops, cpus=cpus)
    from mobileloop.runtimes.onnx import OnnxSession

    return OnnxSession(Path(path), threads=threads, loops=loops, kernel=onnx_kernel, cpus=cpus)
