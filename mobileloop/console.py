"""What commands share of the terminal: its width, sentences, progress, and what an interrupted one returns.

A terminal's lines are filled and never cut; in a pipe every sentence is one line, however long, for other programs.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:  # rich takes a third of the time that a command may need to start
    from rich.console import Console

INTERRUPTED = 130  # what a shell reports for Ctrl-C
PIPE_WIDTH = 1 << 16  # columns where there is no terminal: wider than anything we print
NARROWEST = 40  # columns that a layout is made for; below them a terminal wraps by itself

Update = Callable[[str, float], None]  # of one bar: (step, share done)
UpdateLine = Callable[[str, float, float, str], None]  # of several: (line, done, of how many, step)


def width_of(stream: IO[str]) -> int:
    """Columns of the terminal behind `stream`, or of COLUMNS where that is set; PIPE_WIDTH where there is none."""
    try:
        if not stream.isatty():
            return PIPE_WIDTH
        told = os.environ.get("COLUMNS", "")
        columns = int(told) if told.isdigit() else os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return max(columns or 80, NARROWEST)


def open_console(err: bool = False) -> Console:
    """The one way to a rich Console: of standard output, or of the error stream."""
    from rich.console import Console

    return Console(stderr=err, width=width_of(sys.stderr if err else sys.stdout), highlight=False)


def filled(text: str, width: int, indent: str = "") -> list[str]:
    """`text` in lines of at most `width` columns, all but the first behind `indent`; words stay whole."""
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False) or [""]


def fact_lines(facts: Iterable[tuple[str, str]], width: int, least: int = 0) -> list[str]:
    """(name, value) pairs, one below the other, the values aligned, at column `least` or behind it, and filled."""
    pairs = list(facts)
    indent = max([len(name) + 2 for name, _ in pairs] + [least])
    return [line for name, value in pairs for line in filled(f"{name + ':':<{indent}}{value}", width, " " * indent)]


def visible(text: str) -> str:
    """`text` as one line that no terminal acts upon: bytes that are not UTF-8 and control characters as `\\xe8`, `\\n`.

    Names of files may hold anything, and what is said of them stays one sentence.
    """
    if text.isprintable():
        return text
    raw = {c: f"\\x{ord(c) - 0xDC00:02x}" for c in text if "\udc80" <= c <= "\udcff"}
    return "".join(c if c.isprintable() else raw.get(c, ascii(c)[1:-1]) for c in text)


def take_any_text() -> None:
    """Have standard output write what its encoding lacks as escapes, as the error stream does from the start."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def say(text: str, err: bool = False) -> None:
    """Print a sentence, filled to the terminal's width."""
    say_lines(filled(visible(text), width_of(sys.stderr if err else sys.stdout)), err)


def say_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print (name, value) pairs."""
    say_lines(fact_lines([(name, visible(value)) for name, value in facts], width_of(sys.stdout)))


def print_text(console: Console, *texts: str, style: str = "") -> None:
    """Print sentences, each filled to the console's width; nothing in them is markup."""
    print_lines(console, [line for text in texts for line in filled(visible(text), console.width)], style)


def print_lines(console: Console, lines: Sequence[str], style: str = "") -> None:
    """Print lines as they are."""
    for line in lines:
        console.print(line, style=style or None, markup=False, highlight=False, emoji=False, soft_wrap=True)


def say_lines(lines: Sequence[str], err: bool = False) -> None:
    """Write lines as they are, without rich."""
    stream = sys.stderr if err else sys.stdout
    stream.write("".join(f"{line}\n" for line in lines))
    stream.flush()


@contextmanager
def progress_bar(title: str) -> Iterator[Update]:
    """One bar on stderr; yields update(step, share done)."""
    with progress_bars() as update:
        yield lambda step, done: update(title, done, 1.0, step)


@contextmanager
def progress_bars(by_thread: bool = True) -> Iterator[UpdateLine]:
    """Bars on stderr, one for each line that is updated; they vanish when the block ends, however it ends.

    Where stderr is no terminal there is no bar, so that a log holds nothing but sentences.

    Args:
        by_thread: whether a thread draws them every tenth of a second. A measurement says no, since that thread takes
            a core: its bars are drawn by the updates, between turns.
    """
    if not sys.stderr.isatty():
        yield lambda line, done, total, step: None
        return
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(bar_width=20),
        TextColumn("{task.fields[count]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=open_console(err=True), transient=True, auto_refresh=by_thread) as bars:
        tasks: dict[str, TaskID] = {}

        def update(line: str, done: float, total: float, step: str) -> None:
            if line not in tasks:
                tasks[line] = bars.add_task(line, total=None, count="")
            count = f"{done / (total or 1):4.0%}" if total <= 1 else f"{done:.0f}/{total:.0f}"
            told = f"{line}: {step}" if line else step
            bars.update(tasks[line], description=told, completed=done, total=total or None, count=count)
            if not by_thread:
                bars.refresh()

        yield update
