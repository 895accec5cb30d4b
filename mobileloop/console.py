"""What commands share of the terminal: progress, and what an interrupted one returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # what a shell reports for Ctrl-C


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
