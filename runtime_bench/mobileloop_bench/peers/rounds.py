"""Interleaved rounds: every cell once per round, each in a fresh process, in an order that is shuffled per round."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone

from mobileloop_bench.measure.interference import Watch
from mobileloop_bench.measure.process import CommandFailed, Series, run_command
from mobileloop_bench.measure.samples import Interference
from mobileloop_bench.peers.contestant import Cell
from mobileloop_bench.peers.document import PeersDocument, Round, Sample

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
