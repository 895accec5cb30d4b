"""The engine's session: a memory-mapped safetensors artifact run by the C++ library."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from mobileloop.artifact import ArtifactInfo
from mobileloop.errors import MobileloopError
from mobileloop.runtimes import native
from mobileloop.runtimes.base import Session


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
    """One sequence on the engine; weights stay clean file pages."""

    runtime = "engine"

    def __init__(self, path: Path, *, threads: int = 0, loops: int | None = None) -> None:
        """Map the artifact and allocate its KV cache (touched only as the sequence grows)."""
        super().__init__(path, read_info(path), threads, loops)
        engine = native.library()
        self._kernels = native.kernels()
        model = ctypes.c_void_p()
        native.check(engine.ml_model_open(str(path).encode(), ctypes.byref(model)))
        self._session = ctypes.c_void_p()
        try:
            native.check(engine.ml_session_create(model, self.threads, loops or 0, ctypes.byref(self._session)))
        finally:
            engine.ml_model_close(model)  # the session keeps what it needs

    def details(self) -> dict[str, str]:
        """The kernel set that runs."""
        return {"kernels": self._kernels}

    def close(self) -> None:
        """Unmap the artifact and end the threads."""
        if self._session:
            native.library().ml_session_destroy(self._session)
            self._session = ctypes.c_void_p()

    def _evaluate(self, tokens: Sequence[int], all_logits: bool) -> NDArray[np.float32]:
        if not self._session:
            raise MobileloopError("this session was closed; open the artifact again.")
        ids = np.asarray(tokens, dtype=np.int64)
        logits = np.empty((len(ids) if all_logits else 1, self.info.config.vocab_size), dtype=np.float32)
        native.check(
            native.library().ml_session_run(
                self._session, ids.ctypes.data, ids.size, int(all_logits), logits.ctypes.data, logits.size
            )
        )
        return logits

    def _clear(self) -> None:
        native.check(native.library().ml_session_reset(self._session, self.requested_loops or 0))

    def __del__(self) -> None:
        if getattr(self, "_session", None):
            self.close()
