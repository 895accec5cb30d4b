"""The ExecuTorch session: a .pte with our operators, run by the stock Python runtime."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobileloop.artifact import ArtifactInfo
from mobileloop.errors import MobileloopError
from mobileloop.files import utf8_path
from mobileloop.quiet import muted_stderr, quiet_imports
from mobileloop.runtimes import native
from mobileloop.runtimes.base import Session

if TYPE_CHECKING:
    from torch import Tensor

OPERATORS = "libmobileloop_executorch.so"
_MAX_TOKENS_PER_CALL = 128  # as exported


@cache
def _bindings() -> Any:
    """ExecuTorch's C++ bindings.

    Not its `executorch.runtime`, whose import reads the whole exporter and takes four seconds more. The bindings are
    private, which is one reason why the version is pinned.

    Raises:
        MobileloopError: where executorch is not installed.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when PyTorch is first imported; see _one_torch_thread
    try:
        with quiet_imports():
            import executorch.extension.pybindings._C as bindings
            import torch  # noqa: F401  (tensors of the bindings)
    except ImportError:
        raise MobileloopError(
            "opening a .pte needs executorch; install it with: pip install '.[executorch]'."
        ) from None
    return bindings


@cache
def operators() -> ctypes.CDLL:
    """Load the operator library, which registers the operators with ExecuTorch's runtime.

    Raises:
        MobileloopError: where executorch is not installed, or the package was built without it.
    """
    _bindings()  # the runtime must be there first
    native.library()
    path = native.library_folder() / OPERATORS
    if not path.is_file():
        raise MobileloopError(
            "mobileloop was built without its ExecuTorch operators, because executorch was not installed at that "
            "time; reinstall with: pip install --force-reinstall --no-deps mobileloop."
        )
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise MobileloopError(
            f"the ExecuTorch operators do not fit the installed executorch ({error}); reinstall mobileloop."
        ) from None
    library.mobileloop_executorch_last_error.restype = ctypes.c_char_p
    library.mobileloop_executorch_set_threads.argtypes = [ctypes.c_uint32]
    library.mobileloop_executorch_set_cpus.argtypes = [ctypes.POINTER(ctypes.c_uint32), ctypes.c_uint32]
    if library.mobileloop_executorch_status() != 0:
        raise MobileloopError("ExecuTorch refused to register the mobileloop operators; reinstall mobileloop.")
    return library


def preload() -> None:
    """Load what every session needs, so that a measurement can leave it out."""
    operators()


class ExecutorchSession(Session):
    """One sequence on ExecuTorch's runtime.

    The program's methods share one arena, KV caches included, so a sequence stays with one method: `step` for
    prefill and decode, `forward` only for all logits at the artifact's own loop count.
    """

    runtime = "executorch"

    def __init__(
        self, path: Path, *, threads: int = 0, loops: int | None = None, cpus: Sequence[int] | None = None
    ) -> None:
        """Map the program and load its metadata; the methods load when they are first called."""
        _check_size(path)
        _read_in_large_pages(path)
        self._operators = operators()
        bindings = _bindings()
        try:
            with muted_stderr():
                checks = bindings.Verification.InternalConsistency
                self._program: Any = bindings._load_program(utf8_path(path, "ExecuTorch"), program_verification=checks)
                names = {self._program.get_method_name(i) for i in range(self._program.num_methods())}
        except MobileloopError:
            raise
        except Exception as error:  # the runtime raises RuntimeError with an error number
            raise MobileloopError(
                f"{path} is damaged or not an ExecuTorch program ({error}); export it again."
            ) from None
        if not {"forward", "step", "mobileloop_metadata"} <= names:
            raise MobileloopError(f"{path} was not exported by mobileloop, so it says nothing about its model.")
        self._methods: dict[str, Any] = {}
        super().__init__(path, self._read_info(path), threads, loops, cpus)
        self._take_threads()
        self._method: str | None = None  # that the sequence so far ran through

    def close(self) -> None:
        """Give the program, its arena and its mapping back."""
        self._methods.clear()
        self._program = None

    def details(self) -> dict[str, str]:
        """Versions and kernels."""
        from importlib.metadata import version

        return {"executorch": version("executorch"), "kernels": native.kernels(), **self.placement()}

    def _read_info(self, path: Path) -> ArtifactInfo:
        try:
            text = bytes(self._call("mobileloop_metadata", ()).numpy().tobytes()).decode("utf-8")
            data = json.loads(text)
        except (ValueError, MobileloopError) as error:
            raise MobileloopError(f"the metadata of {path} is damaged ({error}); export it again.") from None
        return ArtifactInfo.parse(data, str(path))

    def _call(self, method: str, arguments: tuple[Tensor, ...]) -> Tensor:
        if self._program is None:
            raise MobileloopError(f"the session of {self.path} was closed; open it again.")
        try:
            with muted_stderr(), _one_torch_thread():
                if method not in self._methods:
                    self._methods[method] = self._program.load_method(method)
                result: Tensor = self._methods[method](arguments)[0]
        except RuntimeError as error:
            reason = self._operators.mobileloop_executorch_last_error().decode() or str(error)
            raise MobileloopError(f"the program failed: {reason}.") from None
        return result

    def _evaluate(self, tokens: Sequence[int], all_logits: bool) -> NDArray[np.float32]:
        import torch

        self._take_threads()
        own_loops = self.requested_loops is None
        if self.position == 0:
            self._method = "forward" if all_logits and own_loops else "step"
        pieces = []
        per_call = 1 if all_logits and self._method == "step" else _MAX_TOKENS_PER_CALL
        for start in range(0, len(tokens), per_call):
            ids = torch.tensor([list(tokens[start : start + per_call])], dtype=torch.int64)
            at = torch.tensor([self.position + start], dtype=torch.int64)
            if self._method == "forward":
                logits = self._call("forward", (ids, at))[0]
            else:
                logits = self._call("step", (ids, at, torch.tensor([self.requested_loops or 0], dtype=torch.int64)))[0]
            pieces.append(logits.numpy().copy() if all_logits else logits[-1:].numpy().copy())
        whole: NDArray[np.float32] = np.concatenate(pieces) if all_logits else pieces[-1]
        return whole

    def _take_threads(self) -> None:
        """Sessions share the operators' threads: the one that runs has its own count on its own cpus."""
        cpus = self.cpus or ()
        self._operators.mobileloop_executorch_set_threads(self.threads)
        self._operators.mobileloop_executorch_set_cpus(native.cpu_array(cpus), len(cpus))

    def _clear(self) -> None:
        self._method = None


def _read_in_large_pages(path: Path) -> None:
    """Have the page cache hold the file by 2 MB, where it does not hold it yet and the system can (docs/lab-log.md)."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        with suppress(OSError):  # a kernel without large pages
            mapped.madvise(mmap.MADV_HUGEPAGE)
        touched = np.frombuffer(mapped, dtype=np.uint8)
        int(touched[:: mmap.PAGESIZE].sum())
        del touched  # or the mapping could not be closed


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Keep PyTorch from helping with the copy of the logits.

    Its OpenMP threads spin for milliseconds behind every piece of work, on the cores that our operators want: a decoded
    token took 7.6 ms on two threads, and 3.0 ms without them (docs/lab-log.md).
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check_size(path: Path) -> None:
    """Refuse a file that is shorter than its own header says (the runtime would read past it, or abort)."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(64)
    if len(head) < 40 or head[4:6] != b"ET":
        raise MobileloopError(f"{path} is not an ExecuTorch program, or is cut short; export it again.")
    # Extended header: magic "ehNN", its length, program size, segment base offset, and from version 1 segment bytes.
    if head[8:10] == b"eh":
        length, program, base = struct.unpack_from("<IQQ", head, 12)
        segments = struct.unpack_from("<Q", head, 32)[0] if length >= 32 else 0
        if max(program, base + segments) > size:
            raise MobileloopError(
                f"{path} holds {size} bytes of the {max(program, base + segments)} its header names: it is cut short; "
                "export it again."
            )
