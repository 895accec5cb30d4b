"""The ONNX runtime: onnxruntime over the portable body of every function, or with our kernels in its place.

docs/onnx.md tells how the kernels take a file over.
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobileloop.artifact import ArtifactInfo
from mobileloop.errors import MobileloopError
from mobileloop.files import utf8_path
from mobileloop.runtimes import native
from mobileloop.runtimes.base import F32, Session, check_threads, default_threads
from mobileloop.runtimes.topology import check_cpus

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

METADATA_KEY = "mobileloop"
INPUTS = {"tokens", "position", "loops", "logits_from", "keys", "values"}
OUTPUTS = ("logits", "new_keys", "new_values")
KERNELS = ("auto", "engine", "stock")  # the engine's where they were built, always, never
OPERATORS = "libmobileloop_onnxruntime.so"
ENGINE_PATH, STOCK_PATH = "engine kernels", "portable function body"


def preload() -> None:
    """Load what every session needs, so that a measurement can leave it out.

    Raises:
        MobileloopError: where onnxruntime is missing.
    """
    _onnxruntime()
    _operators()


@cache
def _operators() -> tuple[Path, ctypes.CDLL] | None:
    """The library of our kernels, or None where it was not built.

    Raises:
        MobileloopError: where it is there and does not load.
    """
    try:
        path = native.library_folder() / OPERATORS
    except MobileloopError:
        return None  # no engine at all: the file runs without
    if not path.is_file():
        return None
    native.library()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise MobileloopError(f"the ONNX kernels cannot be loaded ({error}); reinstall mobileloop.") from None
    library.mobileloop_onnxruntime_kernels_made.restype = ctypes.c_uint64
    return path, library


class OnnxSession(Session):
    """An `.onnx` artifact in onnxruntime.

    The KV cache is two buffers [slots, kv_heads, context, head_dim] that the graph reads in place and never returns:
    a step gives back only the new tokens' rows, which are written behind the old ones here. Pages of the buffers
    that no token has reached are never touched. Our kernels write the rows there themselves and give them back too,
    so that both paths are fed alike.
    """

    runtime = "onnx"

    def __init__(
        self,
        path: Path,
        threads: int = 0,
        loops: int | None = None,
        kernel: str = "auto",
        cpus: Sequence[int] | None = None,
    ) -> None:
        """Load the file.

        Args:
            path: of the artifact.
            threads: 0 is one per cpu of `cpus`, or without it one per big core.
            loops: of the looped stages; None is the artifact's own.
            kernel: "engine" runs the stages and the head on the engine's kernels, "stock" runs the file as any
                onnxruntime does, "auto" takes the engine's where they were built.
            cpus: that the engine's kernels run on, as `EngineSession` takes them.

        Raises:
            MobileloopError: where onnxruntime is missing, the file is no artifact, an argument is out of bounds, or
                `kernel` is "engine" and the kernels were not built or do not take the file over.
        """
        check_threads(threads)
        operators = _wanted_operators(kernel)
        made_before = _kernels_made(operators)
        check_cpus(cpus)
        model = _load(path, threads or default_threads(cpus), operators[0] if operators else None, cpus)
        kernels_made = _kernels_made(operators) - made_before
        super().__init__(path, _info(model, path), threads, loops, cpus)
        self._path = self._computed_by(kernel, kernels_made)
        if cpus is not None and self._path == STOCK_PATH:
            raise MobileloopError(
                f"{path} would run on onnxruntime's own threads, which are not bound to cpus; take "
                "--onnx-kernel engine, or leave --cpus out."
            )
        self._model: InferenceSession | None = model
        self._providers = ", ".join(model.get_providers())
        config = self.info.config
        shape = (self.info.schedule.num_slots, config.num_kv_heads, self.info.context, config.head_dim)
        dtype = np.float16 if self.info.kv_bits == 16 else np.float32
        _check_interface(model, path, shape, dtype)
        try:
            self._keys, self._values = _untouched(shape, dtype), _untouched(shape, dtype)
        except (OSError, OverflowError, ValueError):
            raise MobileloopError(
                f"the KV cache of {path} needs {self.info.kv_capacity_bytes()} bytes, which this machine does not "
                "give; export again with a smaller --context."
            ) from None
        self._clear()

    def details(self) -> dict[str, str]:
        """The version of onnxruntime, its providers, and which path computes a stage."""
        import onnxruntime

        facts = {"onnxruntime": onnxruntime.__version__, "providers": self._providers, "path": self._path}
        return facts if self._path == STOCK_PATH else {**facts, "kernels": native.kernels(), **self.placement()}

    def _computed_by(self, kernel: str, kernels_made: int) -> str:
        """The path that computes the calls of our functions: one per stage, and the head."""
        calls = len(self.info.schedule.stages) + 1
        if kernels_made == 0 and kernel == "engine":
            raise MobileloopError(f"{self.path} has no node that the ONNX kernels take over; export it again.")
        if kernels_made == 0:
            return STOCK_PATH
        # A file of an older version calls no function for its head.
        return ENGINE_PATH if kernels_made == calls else f"{ENGINE_PATH} for {kernels_made} of {calls} calls"

    def close(self) -> None:
        """Give the weights and the KV cache back."""
        self._model = None
        self._keys = self._values = np.zeros((0, 0, 0, 0), self._keys.dtype)

    def _clear(self) -> None:
        # What lies in the buffers need not go: the graph reads nothing at or behind `position`.
        self._slots = np.array(
            [application.slot for application in self.info.schedule.applications(self.requested_loops)]
        )

    def _evaluate(self, tokens: Sequence[int], all_logits: bool) -> F32:
        if self._model is None:
            raise MobileloopError(f"the session of {self.path} is closed; open it again.")
        count = len(tokens)
        feeds = {
            "tokens": np.array(tokens, np.int64),
            "position": np.array(self.position, np.int64),
            "loops": np.array(self.requested_loops or 0, np.int64),
            "logits_from": np.array(0 if all_logits else count - 1, np.int64),
            "keys": self._keys,
            "values": self._values,
        }
        try:
            logits, keys, values = self._model.run(OUTPUTS, feeds)
            # One row per application: with fewer loops than the slots are laid out for, some slots stay as they are.
            self._keys[self._slots, :, self.position : self.position + count] = keys
            self._values[self._slots, :, self.position : self.position + count] = values
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise MobileloopError(f"onnxruntime could not run {self.path}: {_first_line(error)}.") from None
        result: NDArray[np.float32] = logits
        return result


def _untouched(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Zeros whose pages cost nothing until they are written.

    Not np.zeros: numpy asks for huge pages, of which the first few tokens of every head would touch all.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, dtype).reshape(shape)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise MobileloopError(
            "running an .onnx artifact needs onnxruntime; install it with: pip install '.[onnx]'."
        ) from None
    return onnxruntime


def _wanted_operators(kernel: str) -> tuple[Path, ctypes.CDLL] | None:
    if kernel not in KERNELS:
        raise MobileloopError(f"the ONNX kernel '{kernel}' is not known; choose one of {', '.join(KERNELS)}.")
    if kernel == "stock":
        return None
    operators = _operators()
    if operators is None and kernel == "engine":
        raise MobileloopError(
            "mobileloop was built without its ONNX kernels, because the headers of ONNX Runtime were not there; fetch "
            "them with runtime_bench/engine/onnxruntime/fetch_headers.py of the source and reinstall."
        )
    return operators


def _kernels_made(operators: tuple[Path, ctypes.CDLL] | None) -> int:
    """Kernels made on this thread so far; a session makes its own on the thread that opens it."""
    return int(operators[1].mobileloop_onnxruntime_kernels_made()) if operators else 0


def _load(path: Path, threads: int, operators: Path | None, cpus: Sequence[int] | None) -> InferenceSession:
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if operators is not None:
        options.add_session_config_entry("mobileloop.threads", str(threads))
        if cpus is not None:
            options.add_session_config_entry("mobileloop.cpus", ",".join(map(str, cpus)))
        options.register_custom_ops_library(str(operators))
        options.intra_op_num_threads = 1  # what is left beside our kernels is small, and idle threads would spin
    options.log_severity_level = 4  # errors come as exceptions; the log would print them once more
    try:
        # Without enable_fallback=0 a damaged file is read a second time, and onnxruntime prints that it does so.
        session: InferenceSession = onnxruntime.InferenceSession(
            utf8_path(path, "onnxruntime"), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        return session
    except MobileloopError:
        raise
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise MobileloopError(
            f"{path} could not be loaded ({_first_line(error)}); it is damaged or cut short, so export it again."
        ) from None


def _info(model: InferenceSession, path: Path) -> ArtifactInfo:
    try:
        text = model.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    except UnicodeDecodeError:
        raise MobileloopError(f"the metadata of {path} is not UTF-8; export it again.") from None
    if text is None:
        raise MobileloopError(f"{path} has no mobileloop metadata; make it with mobileloop export.")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise MobileloopError(f"the metadata of {path} is not JSON; export it again.") from None
    return ArtifactInfo.parse(data, str(path))


def _check_interface(model: InferenceSession, path: Path, cache: tuple[int, ...], dtype: type[np.generic]) -> None:
    """Raise MobileloopError where the graph does not take what the metadata promises."""
    inputs: dict[str, Any] = {entry.name: entry for entry in model.get_inputs()}
    outputs = tuple(entry.name for entry in model.get_outputs())
    if set(inputs) != INPUTS or outputs != OUTPUTS:
        raise MobileloopError(f"{path} has other inputs or outputs than an artifact; make it with mobileloop export.")
    kind = "tensor(float16)" if dtype is np.float16 else "tensor(float)"
    for name in ("keys", "values"):
        held = inputs[name]
        extents = [e for i, e in enumerate(held.shape) if i != 2]
        if held.type != kind or extents != [cache[0], cache[1], cache[3]]:
            raise MobileloopError(
                f"{path}: the input {name} is {held.type} {held.shape}, but its metadata describe {kind} "
                f"{list(cache)}; export it again."
            )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
