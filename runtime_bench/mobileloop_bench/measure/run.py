"""One run from the card to the document: what `mobileloop bench` does, without its options."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from rich.console import Console

from mobileloop.console import print_text, progress_bars
from mobileloop.errors import MobileloopError
from mobileloop_bench.bandwidth.ceiling import Bandwidth, bandwidth_of, measure_bandwidth
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.machine.file import MachineFile
from mobileloop_bench.machine.probe import probe
from mobileloop_bench.measure.card import print_card
from mobileloop_bench.measure.memory import MemoryKey, measure_memory
from mobileloop_bench.measure.plan import Plan
from mobileloop_bench.measure.probes import Probes
from mobileloop_bench.measure.resume import Earlier
from mobileloop_bench.measure.rounds import measure
from mobileloop_bench.measure.samples import Measurement
from mobileloop_bench.measure.session_runner import slow_down
from mobileloop_bench.measure.summary import make_document
from mobileloop_bench.results.document import Document
from mobileloop_bench.results.result import Memory
from mobileloop_bench.writing.units import counted

WRITE_SECONDS = 1.0  # between two states of the result file
WRITE_SHARE = 0.05  # of the time that goes to writing them


class Recorder:
    """The result file, rewritten whole between turns, so that a run killed at any moment leaves what it measured."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._due_s = 0.0

    @property
    def due(self) -> bool:
        """Whether the file is old enough to be written again."""
        return self._path is not None and time.monotonic() >= self._due_s

    def write(self, document: Callable[[], Document]) -> None:
        """The next state; one that takes long to make and to write makes the following one wait longer."""
        if self._path is None:
            return
        start = time.monotonic()
        document().write(self._path)
        took = time.monotonic() - start
        self._due_s = start + max(WRITE_SECONDS, took / WRITE_SHARE)


def run_bench(
    console: Console,
    plan: Plan,
    probes: Probes,
    json_out: Path | None = None,
    command: str | None = None,
    machine_file: MachineFile | None = None,
    before: Earlier | None = None,
    **more: Any,
) -> Document:
    """Card, measurement and memory pass; the file is written from the start on, `interrupted` until the end.

    Args:
        console: for the card.
        plan: what to measure.
        probes: made before the artifacts were opened.
        json_out: where the document is kept.
        command: that a reader would repeat.
        machine_file: of this machine; its ladder stands in for measuring the read bandwidth.
        before: rounds of the same plan that an interrupted run left; they count.
        more: other fields of the document: `recipe`, `agreement`.

    Raises:
        MobileloopError: where `machine_file` is another machine's, the file cannot be written, or the time budget was
            over before anything was measured.
    """
    slow_down()  # refused here where it is not understood
    machine, recorder = probe(), Recorder(json_out)
    if machine_file is not None:
        check_same_machine(machine_file, machine)
    fields: dict[str, Any] = {"id": uuid.uuid4().hex, **more}
    empty = Document(machine=machine, results=[], settings=plan.settings, command=command, interrupted=True, **fields)
    if before is None:
        recorder.write(lambda: empty)
    bandwidth = _bandwidth(plan, machine, machine_file)
    told = {one.threads for one in bandwidth if one.taken_from is not None}
    lacking = [counted(threads, "thread") for threads in plan.settings.threads if threads not in told]
    if machine_file is not None and lacking:
        print_text(
            console,
            f"The machine file {machine_file.name} has no read bandwidth of {', '.join(lacking)}, so it was "
            "measured now; mobileloop bandwidth --json makes a file that has it.",
        )
    print_card(console, plan, machine, bandwidth)

    def document(measurement: Measurement, memory: Mapping[MemoryKey, Memory]) -> Document:
        seconds = round(probes.seconds, 3)
        measurement = measurement if before is None else before.joined(measurement, plan)
        return make_document(measurement, machine, bandwidth, memory, command, machine_file, seconds=seconds, **fields)

    def checkpoint(measurement: Measurement) -> None:
        if recorder.due:
            recorder.write(lambda: document(dataclasses.replace(measurement, interrupted=True), {}))

    measurement = _measured(plan if before is None else before.rest(plan), checkpoint, probes)
    if not measurement.interrupted and not any(one.decode_ms or one.failure for one in measurement.samples):
        raise MobileloopError(
            f"nothing was measured: {measurement.ended}; give a larger --time-budget, or the ladder of this machine by "
            "--machine, so that its bandwidth is not measured first."
        )
    memory: Mapping[MemoryKey, Memory] = {}
    if not measurement.interrupted:
        recorder.write(lambda: document(dataclasses.replace(measurement, interrupted=True), {}))
        budget = plan.settings.time_budget_s
        memory = measure_memory(plan, None if budget is None else budget - probes.seconds)
    found = document(measurement, memory)
    recorder.write(lambda: found)
    return found


def check_same_machine(given: MachineFile, machine: Machine) -> None:
    """Raise MobileloopError where a machine file tells of another processor than this one's."""
    if given.machine.cpu and machine.cpu and given.machine.cpu != machine.cpu:
        raise MobileloopError(
            f"the machine file {given.name} is of {given.machine.cpu}, but this machine is {machine.cpu}; measure this "
            "one with mobileloop bandwidth --json."
        )
    cores, here = given.machine.cores_usable, machine.cores_usable
    if cores and here and cores != here:
        raise MobileloopError(
            f"the machine file {given.name} is of {counted(cores, 'usable core')}, but this machine has {here}; "
            "measure this one with mobileloop bandwidth --json."
        )


def told_by(given: MachineFile) -> str:
    """Which file a figure is from, when that was measured, and whether that is long ago."""
    try:
        measured = datetime.fromisoformat(given.machine.time or "").astimezone(timezone.utc)
    except ValueError:
        return f"the machine file {given.name}, measured at an unknown time"
    old = datetime.now(timezone.utc) - measured > timedelta(days=1)
    return f"the machine file {given.name}, measured {measured:%Y-%m-%d %H:%M} UTC" + ", over a day ago" * old


def _bandwidth(plan: Plan, machine: Machine, machine_file: MachineFile | None) -> list[Bandwidth]:
    """From the machine file; thread counts that it lacks are measured."""
    counts = plan.settings.threads
    ladder = machine_file.ladder if machine_file is not None else None
    known = {one.threads: one for one in (bandwidth_of(ladder, counts) if ladder else [])}
    if machine_file is not None:
        update = {"taken_from": told_by(machine_file)}
        known = {threads: one.model_copy(update=update) for threads, one in known.items()}
    missing = [threads for threads in counts if threads not in known]
    if missing:
        known |= {one.threads: one for one in measure_bandwidth(machine, missing, cpus=plan.settings.cpus)}
    return [known[threads] for threads in counts if threads in known]


def _measured(plan: Plan, checkpoint: Callable[[Measurement], None], probes: Probes) -> Measurement:
    """Measure with a progress bar on stderr that draws only between turns: a drawing thread would take a core."""
    with progress_bars(by_thread=False) as update:
        return measure(plan, lambda done, total, what: update("", done, total, what), checkpoint, probes)
