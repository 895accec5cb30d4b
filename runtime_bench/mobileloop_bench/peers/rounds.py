"""Interleaved rounds: every cell once per round, each in a fresh process, in an order that is shuffled per round."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone

from mobileloop_bench.measure.interference import Interference, Watch
from mobileloop_bench.peers.contestant import Cell, Command, Series
from mobileloop_bench.peers.document import PeersDocument, Round, Sample

TIMEOUT_S = 600
Progress = Callable[[int, int, str], None]

# Ends by itself when we are gone; it asks only now and then, so that it computes and does not call the kernel.
_BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1000000):
        pass
"""


def shuffled(keys: Sequence[str], seed: int, number: int) -> list[str]:
    """The order of one round: the same for the same seed and number, whenever it runs."""
    order = sorted(keys)
    random.Random(f"{seed}/{number}").shuffle(order)
    return order


def run_rounds(
    document: PeersDocument,
    cells: Sequence[Cell],
    save: Callable[[PeersDocument], None],
    progress: Progress = lambda done, total, what: None,
) -> None:
    """Add rounds to the document up to `rounds_wanted`, saving after each. Ctrl-C drops the unfinished one."""
    by_key = {cell.key: cell for cell in cells}
    wanted = document.rounds_wanted
    try:
        for number in range(len(document.rounds), wanted):
            order = shuffled(list(by_key), document.settings.seed, number)
            started = datetime.now(timezone.utc).isoformat(timespec="seconds")
            samples = {}
            for place, key in enumerate(order):
                done = number * len(order) + place
                progress(done, wanted * len(order), f"round {number + 1} of {wanted}: {key}")
                samples[key] = run_cell(by_key[key])
            document.rounds.append(Round(number=number, started=started, order=order, samples=samples))
            save(document)
    except KeyboardInterrupt:
        document.interrupted = True
        save(document)


def run_cell(cell: Cell) -> Sample:
    """One sample; a failure is kept with its reason and does not end the run."""
    interference, error, series = Interference(), None, Series()
    with Watch(interference, children=True), _neighbours(cell.busy):
        try:
            series = run_command(cell.command)
        except CommandFailed as failure:
            error = str(failure)
    return Sample(
        series=series,
        wall_s=interference.wall_s,
        other_cores=interference.other_cores(),
        stolen_cores=interference.stolen_cores(),
        error=error,
    )


class CommandFailed(Exception):
    """A contestant's process ended badly or said nothing of use."""


def run_command(command: Command) -> Series:
    """The series that a command prints.

    Raises:
        CommandFailed: with the last line of what it complained about.
    """
    try:
        done = subprocess.run(
            list(command.argv),
            input=None if command.request is None else json.dumps(command.request),
            stdin=subprocess.DEVNULL if command.request is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
            env={**os.environ, **command.environment},
        )
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"no answer within {TIMEOUT_S} s") from None
    except OSError as error:
        raise CommandFailed(f"{command.argv[0]} does not start: {error.strerror}") from None
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise CommandFailed(f"{how}: {lines[-1]}" if lines else how)
    try:
        return command.parse(done.stdout)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CommandFailed(f"its output was not understood: {error}") from None


@contextlib.contextmanager
def _neighbours(count: int) -> Iterator[None]:
    """`count` processes that compute all the time, at normal priority."""
    argv = [sys.executable, "-c", _BUSY]
    quiet = subprocess.DEVNULL  # Ctrl-C reaches them too, and they would complain
    started = [subprocess.Popen(argv, stdin=quiet, stderr=quiet) for _ in range(count)]
    try:
        if started:
            time.sleep(0.2)  # until they do
        yield
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()
