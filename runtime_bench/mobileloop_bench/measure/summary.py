"""From raw samples to results: medians, percentiles, bytes per second, loop tax, prediction, where the time went."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mobileloop_bench.bandwidth.ceiling import Bandwidth, ceiling_gbps
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.machine.file import MachineFile
from mobileloop_bench.measure.memory import MemoryKey, memory_key
from mobileloop_bench.measure.plan import Configuration, Plan, _runs, kv_bytes
from mobileloop_bench.measure.samples import Consumption, Measurement, Samples
from mobileloop_bench.results.bootstrap import LEAST_ROUNDS, as_rounds
from mobileloop_bench.results.document import Document
from mobileloop_bench.results.prediction import Prediction
from mobileloop_bench.results.result import (
    LOADING,
    SKIPPED,
    Memory,
    Peer,
    Phase,
    Result,
    Sample,
    StageTime,
)
from mobileloop_bench.results.settings import Settings
from mobileloop_bench.results.speed import alike, fastest_ns
from mobileloop_bench.results.validity import Code, Evidence, doubted, judged
from mobileloop_bench.timemodel.levels import UnknownError
from mobileloop_bench.timemodel.predict import Workload, predict
from mobileloop_bench.writing.units import UNKNOWN, beside, counted


def make_document(
    measurement: Measurement,
    machine: Machine,
    bandwidth: Sequence[Bandwidth],
    memory: Mapping[MemoryKey, Memory],
    command: str | None,
    machine_file: MachineFile | None = None,
    **run: Any,
) -> Document:
    """Everything one run found, in the order of the plan; skipped configurations last.

    Args:
        measurement: the raw samples.
        machine: the one that ran.
        bandwidth: the ceilings.
        memory: of the pass apart.
        command: that a reader would repeat.
        machine_file: what is known of the machine from before; its ladder is kept, and predictions are made from it.
        run: other fields of the document: `id`, `seconds`.
    """
    plan, results = measurement.plan, list[Result]()
    for samples in measurement.samples:
        one = samples.configuration
        used = memory.get(memory_key(one)) if one.peer is None else None
        predicted = None if machine_file is None else predicted_decode(one, plan.settings, machine_file)
        for phase in one.phases:
            row = judged(_row(samples, phase, plan, bandwidth), _evidence(samples, measurement, machine))
            ended = samples.failure or measurement.ended
            if not row.samples_ms and ended and not measurement.interrupted:
                row.reasons = [SKIPPED + ended]
            if one.busy:
                row = doubted(row, [Code.NOT_ALONE.said(f"{beside(one.busy)}, as asked")])
            row.memory, row.prediction = used, predicted if phase == "decode" else None
            results.append(row)
    _add_loop_tax(measurement, results)
    for skip in plan.skipped:
        row = _row(Samples(skip.configuration), "decode", plan, bandwidth)
        results.append(row.model_copy(update={"reasons": [SKIPPED + skip.reason], "valid": False}))
    kept = {"sessions_kept": measurement.sessions_kept, "ended": measurement.ended}
    return Document(
        machine=machine,
        bandwidth=list(bandwidth),
        ladder=None if machine_file is None else machine_file.ladder,
        results=results,
        series=[Sample(t_s=one.t_s, mhz=one.mhz, celsius=one.celsius) for one in measurement.series],
        settings=plan.settings.model_copy(update=kept),
        command=command,
        interrupted=measurement.interrupted,
        **run,
    )


def _evidence(samples: Samples, measurement: Measurement, machine: Machine) -> Evidence:
    cpus, threads = measurement.plan.settings.cpus, samples.configuration.threads
    every = [one.speeds for one in measurement.samples if one.configuration.threads == threads]
    return Evidence(
        machine=machine,
        cpus=None if cpus is None else len(cpus),
        interrupted=measurement.interrupted,
        failure=samples.failure,
        switches_per_s=samples.interference.switches_per_s(),
        fastest_ns=fastest_ns([speed for speeds in every for speed in speeds]),
        mhz=samples.mhz,
        celsius=samples.celsius,
    )


def predicted_decode(one: Configuration, settings: Settings, machine_file: MachineFile) -> Prediction | None:
    """What the model of time says of the token in the middle of the decode; None where the machine file does not tell.

    It speaks of one sequence.
    """
    if machine_file.ladder is None or machine_file.costs is None or one.sequences > 1:
        return None
    if one.artifact.runtime != "engine" or one.peer is not None or one.busy:
        return None
    position = one.depth + settings.prompt_tokens + settings.decode_tokens // 2
    try:
        return predict(Workload.of(one.artifact.info), machine_file, one.threads, one.requested_loops, position)
    except UnknownError:
        return None


def _row(samples: Samples, phase: Phase, plan: Plan, bandwidth: Sequence[Bandwidth]) -> Result:
    one, settings = samples.configuration, plan.settings
    values: list[float] = getattr(samples, f"{phase}_ms")
    median = statistics.median(values) if values else None
    ran = _what_ran(samples) if one.peer is None else _what_the_peer_ran(one, one.peer)
    unique, executed = ran["unique_bytes"], ran["executed_bytes"]
    kv = kv_bytes(one, phase, settings)
    bytes_read = unique + kv if unique is not None and kv is not None else None
    decode = phase == "decode"
    per_round = one.decode_samples(settings) if decode else 1
    tokens = one.sequences * {"prefill": settings.prompt_tokens, "decode": 1}.get(phase, 0)
    ceiling = ceiling_gbps(bandwidth, one.threads) if decode else None
    return Result(
        **ran,
        model=one.artifact.info.config.name,
        loops=one.loops,
        threads=one.threads,
        phase=phase,
        depth=one.depth,
        sequences=one.sequences,
        busy=one.busy,
        stream=samples.details.get("stream"),
        samples_per_round=per_round,
        samples_ms=[round(value, 5) for value in values],
        median_ms=median,
        tokens_per_s=tokens * 1000 / median if tokens and median else None,
        kv_bytes=kv,
        read_gbps=_gbps(unique, kv, median) if decode else None,
        valid=False,
        reasons=[],
        p10_ms=float(np.percentile(values, 10)) if values else None,
        p90_ms=float(np.percentile(values, 90)) if values else None,
        p99_ms=float(np.percentile(values, 99)) if values else None,
        executed_gbps=_gbps(executed, kv, median) if decode else None,
        ceiling_gbps=ceiling,
        ceiling_tokens_per_s=one.sequences * ceiling * 1e9 / bytes_read if ceiling and bytes_read else None,
        repetitions=len(values) // per_round,
        context_tokens=one.depth + settings.prompt_tokens + (settings.decode_tokens if decode else 0),
        random_weights=one.artifact.info.config.random_weights,
        source=one.artifact.info.source,
        source_sha256=one.artifact.info.source_sha256,
        other_cores=None if phase in LOADING else samples.interference.other_cores(),
        stolen_cores=None if phase in LOADING else samples.interference.stolen_cores(),
        speeds=[] if phase in LOADING else samples.speeds,
        stages=_stages(samples.stage_ms) if decode else [],
        **(_per_token(samples.consumption) if decode else {}),
    )


def _what_ran(samples: Samples) -> dict[str, Any]:
    """Our runtime with the artifact."""
    one = samples.configuration
    info = one.artifact.info
    return {
        "artifact": one.label,
        "runtime": one.artifact.runtime,
        "quantization": info.quantization,
        "schedule": info.schedule.name,
        "unique_bytes": info.unique_bytes(),
        "executed_bytes": _bytes_of(one, "executed"),
        "activation_bytes": _bytes_of(one, "activation"),
        "block_bytes": info.token_bytes.largest_block(),
        "stage_bytes": info.token_bytes.looped_stage(),
        "size_on_disk_bytes": one.artifact.size_on_disk_bytes,
        "details": samples.details or one.artifact.details,
    }


def _what_the_peer_ran(one: Configuration, peer: str) -> dict[str, Any]:
    """Its own file; every application has weights of its own there, unless the runtime loops by itself."""
    entry = one.entry
    return {
        "artifact": one.label,
        "runtime": peer,
        "quantization": entry.quantization if entry else UNKNOWN,
        "unique_bytes": entry.unique_bytes if entry else None,
        "executed_bytes": (entry.executed_bytes or entry.unique_bytes) if entry else None,
        "schedule": entry.schedule if entry else None,
        "size_on_disk_bytes": entry.size_on_disk_bytes if entry else None,
        "peer": Peer(name=peer, version=entry.version if entry else None, flags=entry.flags if entry else None),
    }


def _bytes_of(one: Configuration, kind: str) -> int | None:
    if not _runs(one):
        return None
    info = one.artifact.info
    loops = one.requested_loops
    return info.executed_bytes(loops) if kind == "executed" else one.sequences * info.activation_bytes(loops)


def _gbps(weights: int | None, kv: int | None, median_ms: float | None) -> float | None:
    if weights is None or kv is None or not median_ms:
        return None
    return (weights + kv) / (median_ms * 1e6)


def _add_loop_tax(measurement: Measurement, results: Sequence[Result]) -> None:
    """Over the decode with 1 loop of a configuration that is the same in everything else, in rounds of like speed.

    A peer's file with every block twice has other weights to read, so its time over that of its plain file is none.
    """
    decodes = [row for row in results if row.phase == "decode"]
    pairs = [(samples.configuration, row) for samples, row in zip(measurement.samples, decodes, strict=True)]
    pairs = [(one, row) for one, row in pairs if one.peer is None]
    once = {_but_loops(one): row for one, row in pairs if one.loops == 1}
    for one, row in pairs:
        base = once.get(_but_loops(one))
        if base is None or not base.median_ms or row.median_ms is None:
            continue
        rounds = alike(base.speeds, row.speeds)
        if len(rounds) >= LEAST_ROUNDS:
            over, under = (as_rounds(each.samples_ms, each.samples_per_round or 1) for each in (row, base))
            row.loop_tax = float(np.median(over[rounds]) / np.median(under[rounds]))
            continue
        row.loop_tax = row.median_ms / base.median_ms
        if base.speeds and row.speeds:
            told = f"in {len(rounds)} of {counted(len(row.speeds), 'round')} the cores were as fast with 1 loop"
            row.notes = [*row.notes, Code.UNLIKE_ROUNDS.said(f"{told}; the loop tax is of all rounds")]


def _but_loops(one: Configuration) -> tuple[str, int, str, int, int, int]:
    return one.artifact.label, one.threads, one.stream, one.depth, one.sequences, one.busy


def _stages(stage_ms: Sequence[Sequence[tuple[str, list[float]]]]) -> list[StageTime]:
    """Medians over the tokens; a loop that a token did not run counts as 0."""
    found = []
    for rows in zip(*stage_ms, strict=True):
        loops = list(itertools.zip_longest(*(ms for _, ms in rows), fillvalue=0.0))
        found.append(
            StageTime(
                stage=rows[0][0],
                loops=len(loops),
                median_ms=statistics.median(sum(ms) for _, ms in rows),
                loop_ms=[statistics.median(ms) for ms in loops],
            )
        )
    return found


def _per_token(consumption: Consumption) -> dict[str, Any]:
    tokens, metered = consumption.tokens, consumption.metered_tokens
    return {
        "counters": {name: count / tokens for name, count in consumption.events.items()},
        "joules_per_token": consumption.joules / metered if metered else None,
    }
