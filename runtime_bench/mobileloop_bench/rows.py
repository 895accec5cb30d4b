"""From raw samples to results: medians, bytes per second, loop tax, and whether a figure is valid."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np

from mobileloop_bench.bandwidth import Bandwidth, ceiling_gbps
from mobileloop_bench.machine import Machine
from mobileloop_bench.measure import Measurement, Samples
from mobileloop_bench.memory import Memory
from mobileloop_bench.plan import Configuration, Plan
from mobileloop_bench.results import SKIPPED, Document, Phase, Result

MIN_REPETITIONS = 5  # as few as llama-bench runs; below, a median says little about the spread
MAX_SPREAD = 1.5  # p90 / p10
MAX_DRIFT = 1.2  # last repetition's median over the first one's: a throttled or heated core
MAX_OTHER_CORES = 0.25
MAX_STOLEN_CORES = 0.05
PHASES: tuple[Phase, ...] = get_args(Phase)
LOADING = ("load", "first_token")


def make_document(
    measurement: Measurement,
    machine: Machine,
    bandwidth: Sequence[Bandwidth],
    memory: Mapping[tuple[str, int], Memory],
    command: str | None,
) -> Document:
    """Everything one run found, in the order of the plan; skipped configurations last."""
    plan, results = measurement.plan, list[Result]()
    for samples in measurement.samples:
        one = samples.configuration
        used = memory.get((one.artifact.label, one.loops))
        for phase in PHASES:
            row = _row(samples, phase, plan, bandwidth)
            reasons = _reasons(row, samples, measurement, machine)
            results.append(row.model_copy(update={"memory": used, "reasons": reasons, "valid": not reasons}))
    _add_loop_tax(results)
    for skip in plan.skipped:
        row = _row(Samples(skip.configuration), "decode", plan, bandwidth)
        results.append(row.model_copy(update={"reasons": [SKIPPED + skip.reason], "valid": False}))
    settings = plan.settings.model_copy(update={"sessions_kept": measurement.sessions_kept})
    return Document(
        machine=machine,
        bandwidth=list(bandwidth),
        results=results,
        settings=settings,
        command=command,
        interrupted=measurement.interrupted,
    )


def _row(samples: Samples, phase: Phase, plan: Plan, bandwidth: Sequence[Bandwidth]) -> Result:
    one, settings = samples.configuration, plan.settings
    info = one.artifact.info
    values: list[float] = getattr(samples, f"{phase}_ms")
    median = statistics.median(values) if values else None
    unique, executed = info.unique_bytes(), _bytes_of(one, "executed")
    kv = kv_bytes(one, phase, settings.prompt_tokens, settings.decode_tokens)
    decode = phase == "decode"
    tokens = {"prefill": settings.prompt_tokens, "decode": 1}.get(phase)
    ceiling = ceiling_gbps(bandwidth, one.threads) if decode else None
    return Result(
        artifact=one.artifact.label,
        runtime=one.artifact.runtime,
        model=info.config.name,
        quantization=info.quantization,
        loops=one.loops,
        threads=one.threads,
        phase=phase,
        samples_per_round=settings.decode_tokens if decode else 1,
        stream=samples.details.get("stream"),
        samples_ms=[round(value, 5) for value in values],
        median_ms=median,
        tokens_per_s=tokens * 1000 / median if tokens and median else None,
        unique_bytes=unique,
        executed_bytes=executed,
        kv_bytes=kv,
        read_gbps=_gbps(unique, kv, median) if decode else None,
        valid=False,
        reasons=[],
        p10_ms=float(np.percentile(values, 10)) if values else None,
        p90_ms=float(np.percentile(values, 90)) if values else None,
        p99_ms=float(np.percentile(values, 99)) if values else None,
        executed_gbps=_gbps(executed, kv, median) if decode else None,
        ceiling_gbps=ceiling,
        ceiling_tokens_per_s=ceiling * 1e9 / (unique + kv) if ceiling and kv is not None else None,
        repetitions=len(values) // settings.decode_tokens if decode else len(values),
        context_tokens=settings.prompt_tokens + (settings.decode_tokens if decode else 0),
        schedule=info.schedule.name,
        activation_bytes=_bytes_of(one, "activation"),
        block_bytes=info.token_bytes.largest_block(),
        stage_bytes=info.token_bytes.looped_stage(),
        size_on_disk_bytes=one.artifact.size_on_disk_bytes,
        random_weights=info.config.random_weights,
        source=info.source,
        source_sha256=info.source_sha256,
        other_cores=None if phase in LOADING else samples.interference.other_cores(),
        stolen_cores=None if phase in LOADING else samples.interference.stolen_cores(),
        details=samples.details or one.artifact.details,
    )


def kv_bytes(one: Configuration, phase: Phase, prompt_tokens: int, decode_tokens: int) -> int | None:
    """KV bytes of the token in the middle of decode, or of the prompt's last token."""
    if phase in LOADING or not _runs(one):
        return None
    position = prompt_tokens - 1 if phase == "prefill" else prompt_tokens + decode_tokens // 2
    return one.artifact.info.kv_bytes(position, one.requested_loops)


def _runs(one: Configuration) -> bool:
    return one.loops <= one.artifact.info.schedule.max_loops


def _bytes_of(one: Configuration, kind: str) -> int | None:
    if not _runs(one):
        return None
    info = one.artifact.info
    loops = one.requested_loops
    return info.executed_bytes(loops) if kind == "executed" else info.activation_bytes(loops)


def _gbps(weights: int | None, kv: int | None, median_ms: float | None) -> float | None:
    if weights is None or kv is None or not median_ms:
        return None
    return (weights + kv) / (median_ms * 1e6)


def _add_loop_tax(results: list[Result]) -> None:
    medians = {
        (row.artifact, row.threads): row.median_ms for row in results if row.phase == "decode" and row.loops == 1
    }
    for row in results:
        once = medians.get((row.artifact, row.threads))
        if row.phase == "decode" and once and row.median_ms is not None:
            row.loop_tax = row.median_ms / once


def _reasons(row: Result, samples: Samples, measurement: Measurement, machine: Machine) -> list[str]:
    """Why a figure is not valid; one short phrase each."""
    reasons = []
    if measurement.interrupted:
        reasons.append("interrupted")
    if machine.emulated:
        reasons.append("emulated: the machine's instructions are simulated")
    if (row.repetitions or 0) < MIN_REPETITIONS:
        counted = "samples" if row.phase != "decode" else "repetitions"
        reasons.append(f"fewer than {MIN_REPETITIONS} {counted}: {row.repetitions or 0}")
    if row.p10_ms and row.p90_ms and row.p90_ms > MAX_SPREAD * row.p10_ms:
        reasons.append(f"spread: p90 is {row.p90_ms / row.p10_ms:.2f} times p10, beyond {MAX_SPREAD}")
    cpus = measurement.plan.settings.cpus
    cores = machine.cores_usable if cpus is None else len(cpus)
    if cores and row.threads > cores:
        reasons.append(f"{row.threads} threads on {cores} cores")
    drift = _drift(samples.decode_ms, measurement.plan.settings.decode_tokens) if row.phase == "decode" else None
    if drift and drift > MAX_DRIFT:
        reasons.append(f"slowed down: the last repetition took {drift:.2f} times the first")
    if row.stolen_cores is not None and row.stolen_cores > MAX_STOLEN_CORES:
        reasons.append(f"preempted: the hypervisor took {row.stolen_cores:.2f} cores")
    if row.other_cores is not None and row.other_cores > MAX_OTHER_CORES:
        reasons.append(f"not alone: other programs used {row.other_cores:.2f} cores")
    return reasons


def _drift(samples_ms: list[float], per_repetition: int) -> float | None:
    if len(samples_ms) < 2 * per_repetition:
        return None
    whole = len(samples_ms) // per_repetition * per_repetition
    first = statistics.median(samples_ms[:per_repetition])
    last = statistics.median(samples_ms[whole - per_repetition : whole])
    return last / first if first else None
