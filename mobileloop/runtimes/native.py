"""The engine's C interface through ctypes; every failure becomes a MobileloopError with the engine's sentence."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import mobileloop
from mobileloop.errors import MobileloopError
from mobileloop.runtimes.abi import ABI_VERSION, declare

LIBRARY = "libmobileloop_engine.so"


def library_folder() -> Path:
    """Where the built libraries lie: MOBILELOOP_LIBRARY_DIR, or beside the installed package.

    Raises:
        MobileloopError: where they were not built.
    """
    override = os.environ.get("MOBILELOOP_LIBRARY_DIR")
    if override:
        candidates = [Path(override)]
    else:
        # An editable install keeps built files in site-packages, so the package has more than one folder.
        candidates = [Path(folder) / "lib" for folder in mobileloop.__path__] + _installed_folders()
    for folder in candidates:
        if (folder / LIBRARY).is_file():
            return folder
    raise MobileloopError(f"the engine library {LIBRARY} was not built; reinstall with: pip install mobileloop.")


def _installed_folders() -> list[Path]:
    import sysconfig

    return [Path(sysconfig.get_path(kind)) / "mobileloop" / "lib" for kind in ("platlib", "purelib")]


@cache
def library() -> ctypes.CDLL:
    """The loaded engine.

    Raises:
        MobileloopError: where it is missing, or its ABI is another version's.
    """
    path = library_folder() / LIBRARY
    try:
        # Global symbols: the ExecuTorch operator library resolves the same engine.
        engine = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise MobileloopError(f"the engine library cannot be loaded ({error}); reinstall mobileloop.") from None
    foreign = MobileloopError("the engine library belongs to another version of mobileloop; reinstall mobileloop.")
    try:
        if engine.ml_abi_version() != ABI_VERSION:
            raise foreign
        declare(engine)
    except AttributeError:  # a function that this version has and that one lacks
        raise foreign from None
    return engine


def check(status: int) -> None:
    """Raise MobileloopError with the engine's sentence where a call failed."""
    if status != 0:
        message = library().ml_last_error().decode("utf-8", "replace")
        raise MobileloopError(f"{message}.")


def kernels() -> str:
    """The kernel set in use, such as "avx2"."""
    return str(library().ml_kernels().decode())


def available_kernels() -> list[str]:
    """Kernel sets this processor can run, best first."""
    return str(library().ml_available_kernels().decode()).split(",")


def use_kernels(name: str) -> None:
    """Choose the kernel set of sessions opened from here on.

    Raises:
        MobileloopError: where this processor cannot run it.
    """
    check(library().ml_use_kernels(name.encode()))


def default_threads() -> int:
    """Threads that suit this machine: a core each, as `ml_default_threads` counts those that are big and paid for."""
    return int(library().ml_default_threads())


def topology_json(root: Path | None = None) -> str:
    """The processor as `ml_topology_json` writes it.

    Args:
        root: None is this machine; else a folder that holds another machine's `sys`.
    """
    return _told(library().ml_topology_json, root)


def machine_json(root: Path | None = None) -> str:
    """The machine as `ml_describe_machine` writes it; `root` holds `proc`, `sys` and `etc` of another one."""
    return _told(library().ml_describe_machine, root)


def _told(function: Callable[..., int], of: Path | None) -> str:
    """A text of the engine, which is asked for its size first."""
    place, needed, size = (None if of is None else os.fsencode(of)), ctypes.c_uint64(), 0
    buffer = None
    while True:  # what it tells of can grow between two calls
        check(function(place, buffer, size, ctypes.byref(needed)))
        if buffer is not None:
            return str(buffer.value.decode())
        size = needed.value + 4096
        buffer = ctypes.create_string_buffer(size)


def cpu_array(cpus: Sequence[int]) -> ctypes.Array[ctypes.c_uint32]:
    """Cpu numbers as the engine takes them."""
    return (ctypes.c_uint32 * len(cpus))(*cpus)
