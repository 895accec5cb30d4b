"""Options that several commands share, and the progress bar they draw on the standard error stream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobileloop.errors import MobileloopError

if TYPE_CHECKING:
    from mobileloop.runtimes.base import SessionOptions

STDOUT = "-"  # as the name of a file

Loops = Annotated[
    int | None,
    typer.Option("--loops", help="Applications of the looped stages; the artifact's own count when not given."),
]
Threads = Annotated[int, typer.Option("--threads", help="Threads; 0 takes every big core, or every one of --cpus.")]


def _complete_cpus(incomplete: str) -> list[tuple[str, str]]:
    """Clusters of this machine, as values of --cpus with what they are."""
    from mobileloop.runtimes.topology import read_topology, write_cpus

    try:
        clusters = read_topology().clusters
    except MobileloopError:
        return []
    found = [(write_cpus(one.cpus), one.title()) for one in clusters]
    return [(value, told) for value, told in found if value.startswith(incomplete)]


Cpus = Annotated[
    str | None,
    typer.Option(
        "--cpus",
        metavar="LIST",
        help="Run on these cpus, such as 4-7,2: one thread on each where there are as many, else every thread on any "
        "of them. Default: the big cores where there are others (mobileloop machine).",
        autocompletion=_complete_cpus,
    ),
]

OnnxKernel = Annotated[
    str,
    typer.Option(
        "--onnx-kernel",
        metavar="auto|engine|stock",
        help="What computes an .onnx artifact: our kernels, or onnxruntime alone; auto takes ours if they were built.",
    ),
]


Stream = Annotated[
    str,
    typer.Option(
        "--stream",
        metavar="auto|off|prefetch|core[:N]",
        help="How looped engine artifacts bring the next blocks towards the cache: by prefetch, by N threads that only "
        "read, or not; auto times them for a second and remembers the fastest.",
    ),
]


def session_options(files: Sequence[Path], onnx_kernel: str, cpus: str | None, stream: str = "off") -> SessionOptions:
    """The values of these options, as sessions of `files` take them.

    Raises:
        MobileloopError: for a cpu list that is none, or an ONNX kernel where no file is an .onnx artifact.
    """
    from mobileloop.artifact import runtime_of
    from mobileloop.runtimes.topology import parse_cpus

    if onnx_kernel != "auto" and not any(runtime_of(file) == "onnx" for file in files):
        raise MobileloopError(
            f"--onnx-kernel {onnx_kernel} is for .onnx artifacts, and {files[0]} is none; leave it out."
        )
    return {"onnx_kernel": onnx_kernel, "stream": stream, "cpus": None if cpus is None else parse_cpus(cpus)}


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise MobileloopError where an option lies outside its range."""
    if not low <= value <= high:
        raise MobileloopError(f"{name} {value} is outside {low}-{high}; choose a value in that range.")
