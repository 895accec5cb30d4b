"""Options that several commands share, and the progress bar they draw on the standard error stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from mobileloop.errors import MobileloopError

Loops = Annotated[
    int | None,
    typer.Option("--loops", help="Applications of the looped stages; the artifact's own count when not given."),
]
Threads = Annotated[int, typer.Option("--threads", help="Threads; 0 takes every core this process may use.")]

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


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr; yields update(step, share done). It vanishes when the block ends, however it ends.

    Where stderr is no terminal there is no bar, so that a log holds nothing but sentences.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=1.0)

        def update(step: str, done: float) -> None:
            bars.update(task, description=f"{title}: {step}", completed=done)

        yield update


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise MobileloopError where an option lies outside its range."""
    if not low <= value <= high:
        raise MobileloopError(f"{name} {value} is outside {low}-{high}; choose a value in that range.")
