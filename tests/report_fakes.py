"""Made-up documents for the report's tests: one with every field that a chart can use, and its parts left out.

The figures are arithmetic (bytes over bandwidth, with a little deterministic noise), not measurements.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator, Sequence

from mobileloop_bench.bandwidth.ceiling import Bandwidth
from mobileloop_bench.machine.facts import Cache, Cluster, Machine
from mobileloop_bench.machine.ladder import Ladder, Latency, Rung, Step
from mobileloop_bench.results.document import Document
from mobileloop_bench.results.prediction import Prediction, StagePrediction
from mobileloop_bench.results.result import Memory, Peer, Result, Sample, StageTime

BLOCKS, BLOCK_BYTES, HEAD_BYTES, KV_BYTES = 30, 2_000_000, 30_000_000, 3_500_000
LEVELS = {"L1": (48 << 10, 130.0, 1.4), "L2": (2 << 20, 70.0, 4.6), "L3": (32 << 20, 30.0, 16.0)}
DRAM_GBPS, DRAM_NS = 13.0, 95.0
RUNTIMES = {"engine": (".safetensors", 1.0), "executorch": (".pte", 1.15), "onnx": (".onnx", 1.3)}
ROUNDS, TOKENS = 5, 24


def full_machine() -> Machine:
    caches = [
        Cache(level=int(name[1]), kind="unified", size_bytes=size, instances=1 if name == "L3" else 2, shared_by=1)
        for name, (size, _, _) in LEVELS.items()
    ]
    return Machine(
        cpu="Made-up Cortex, 2 clusters",
        architecture="aarch64",
        cores_usable=4,
        cores_physical=4,
        clusters=[Cluster(cpus=[2, 3], max_mhz=2800, big=True), Cluster(cpus=[0, 1], max_mhz=1800, big=False)],
        caches=caches,
        instruction_sets=["asimd", "asimddp"],
        max_mhz=2800,
        memory_bytes=8 << 30,
        libraries={"numpy": "2.0"},
        mobileloop="0.1.0",
        git_commit="0123456789abcdef",
        emulated=False,
        time="2026-11-22T12:00:00+00:00",
    )


def gbps_of(size_bytes: float, threads: int) -> float:
    """A ladder with soft knees."""
    rates = [(size * threads, gbps * threads) for size, gbps, _ in LEVELS.values()]
    for size, gbps in rates:
        if size_bytes <= 0.9 * size:
            return gbps
    return DRAM_GBPS * min(threads, 2)


def full_ladder(threads: Sequence[int] = (1, 2)) -> Ladder:
    sizes = [(16 << 10) * 2 ** (half / 2) for half in range(27)]
    rungs = [
        Rung(size_bytes=int(size), threads=count, state=state, read_gbps=gbps_of(size, count) * factor)
        for count in threads
        for state, factor in (("warm", 1.0), ("cold", 0.4))
        for size in sizes
        if state == "warm" or size <= 32 << 20
    ]
    steps = []
    for count in threads:
        for name, (size, gbps, ns) in LEVELS.items():
            steps.append(
                Step(level=name, threads=count, up_to_bytes=size * count, read_gbps=gbps * count, latency_ns=ns)
            )
        steps.append(Step(level="DRAM", threads=count, read_gbps=DRAM_GBPS * min(count, 2), latency_ns=DRAM_NS))
    latencies = [
        Latency(size_bytes=int(size), ns=next((ns for held, _, ns in LEVELS.values() if size <= held), DRAM_NS))
        for size in sizes
    ]
    return Ladder(rungs=rungs, steps=steps, latencies=latencies)


def full_document(
    loops: Sequence[int] = (1, 2, 4, 8), threads: Sequence[int] = (1, 2), unshared: int | None = 2, peers: bool = True
) -> Document:
    """Three artifacts of one model, a model twice as deep without sharing, and a peer."""
    rows: list[Result] = []
    for runtime, (suffix, slower) in RUNTIMES.items():
        name = f"SmolLM2-135M-int4{suffix}"
        rows += [row for count in threads for n in loops for row in _phases(name, runtime, n, count, slower)]
    if unshared:
        name = f"SmolLM2-135M-{unshared}x-unshared.safetensors"
        rows += [row for count in threads for row in _phases(name, "engine", 1, count, 1.0, depth_factor=unshared)]
    if peers:
        peer = Peer(name="llama.cpp", version="b7000", flags="-DGGML_AVX512=OFF")
        for count in threads:
            rows.append(_decode("SmolLM2-135M-Q4_0.gguf", "llama.cpp", 1, count, 2.6, peer=peer))
    return Document(
        id="made-up",
        machine=full_machine(),
        results=rows,
        bandwidth=[
            Bandwidth(
                threads=count, size_bytes=1 << 28, read_gbps=DRAM_GBPS * min(count, 2), beyond_last_level_cache=True
            )
            for count in threads
        ],
        ladder=full_ladder(threads),
        series=list(_series()),
        command="mobileloop bench SmolLM2-135M-int4.safetensors --threads 1,2 --loops 1,2,4,8 --json run.json",
        seconds=120.0,
    )


def bare_document() -> Document:
    """The same run with nothing in it that may be missing."""
    needed = {"artifact", "runtime", "model", "quantization", "loops", "threads", "phase", "samples_ms", "valid"}
    unknown = dict.fromkeys(
        ("median_ms", "tokens_per_s", "unique_bytes", "executed_bytes", "kv_bytes", "read_gbps"), None
    )
    rows = [
        Result.model_validate({**row.model_dump(include=needed), **unknown, "median_ms": row.median_ms, "reasons": []})
        for row in full_document(unshared=None, peers=False).results
    ]
    return Document(machine=Machine(), results=rows)


def _phases(
    name: str, runtime: str, loops: int, threads: int, slower: float, depth_factor: int = 1
) -> Iterator[Result]:
    decode = _decode(name, runtime, loops, threads, slower, depth_factor=depth_factor)
    for phase, ms in (("load", 4.0), ("first_token", 20.0), ("prefill", 60.0 * loops)):
        samples = [ms * slower * (1 + 0.01 * number) for number in range(ROUNDS)]
        changed = {
            "phase": phase,
            "samples_ms": samples,
            "median_ms": statistics.median(samples),
            "median_low_ms": samples[0],
            "median_high_ms": samples[-1],
            "tokens_per_s": 128_000 / ms if phase == "prefill" else None,
            "reasons": [],
            "valid": True,
            "stages": [],
            "prediction": None,
            "counters": {},
            "joules_per_token": None,
            **dict.fromkeys(("read_gbps", "executed_gbps", "ceiling_gbps", "ceiling_tokens_per_s", "loop_tax")),
        }
        yield decode.model_copy(update=changed)
    yield decode


def _decode(
    name: str,
    runtime: str,
    loops: int,
    threads: int,
    slower: float,
    depth_factor: int = 1,
    peer: Peer | None = None,
) -> Result:
    first, again = _loop_ms(threads, slower * depth_factor)
    head = slower * HEAD_BYTES / (DRAM_GBPS * threads * 1e6)
    ms = first + (loops - 1) * again + head
    unique = BLOCKS * depth_factor * BLOCK_BYTES + HEAD_BYTES
    executed = BLOCKS * depth_factor * BLOCK_BYTES * loops + HEAD_BYTES
    kv = KV_BYTES * loops * depth_factor
    draw = random.Random(f"{name}{loops}{threads}")
    samples = [ms * (1 + 0.03 * math.exp(draw.gauss(0, 0.8))) for _ in range(ROUNDS * TOKENS)]
    median = statistics.median(samples)
    ordered = sorted(samples)
    ceiling = DRAM_GBPS * min(threads, 2)
    spread = runtime == "onnx" and loops == 2
    bytes_known = peer is None
    once = (_loop_ms(threads, slower * depth_factor)[0] + head) * median / ms
    return Result(
        artifact=name,
        runtime=runtime,
        model="SmolLM2-135M",
        quantization="int4",
        loops=loops,
        threads=threads,
        phase="decode",
        samples_per_round=TOKENS,
        stream="off" if loops == 1 else "core:1",
        samples_ms=samples,
        median_ms=median,
        median_low_ms=0.991 * median,
        median_high_ms=1.013 * median,
        tokens_per_s=1000 / median,
        unique_bytes=unique if bytes_known else None,
        executed_bytes=executed if bytes_known else None,
        kv_bytes=kv if bytes_known else None,
        block_bytes=BLOCK_BYTES if bytes_known else None,
        stage_bytes=BLOCK_BYTES if bytes_known and depth_factor == 1 else None,
        activation_bytes=400_000 if bytes_known else None,
        read_gbps=(unique + kv) / (median * 1e6) if bytes_known else None,
        executed_gbps=(executed + kv) / (median * 1e6) if bytes_known else None,
        ceiling_gbps=ceiling,
        ceiling_tokens_per_s=ceiling * 1e9 / (unique + kv) if bytes_known else None,
        loop_tax=median / once if bytes_known else None,
        valid=not spread,
        reasons=["spread: p90 is 1.62 times p10, beyond 1.5"] if spread else [],
        p10_ms=ordered[len(ordered) // 10],
        p90_ms=ordered[9 * len(ordered) // 10],
        p99_ms=ordered[-2],
        repetitions=ROUNDS,
        context_tokens=152,
        schedule="immediate:8" if bytes_known else None,
        size_on_disk_bytes=unique,
        random_weights=False,
        source="SmolLM2-135M-Instruct.Q4_1.gguf",
        source_sha256="ab" * 32,
        memory=Memory(
            delta_anonymous_bytes=12_000_000 + kv, delta_file_bytes=unique, swap_bytes=0, peak_bytes=unique + (1 << 27)
        ),
        details={"kernel": "neon-dotprod"},
        stages=[]
        if peer
        else [
            StageTime(
                stage="0-29",
                loops=loops,
                median_ms=first + (loops - 1) * again,
                loop_ms=[first, *([again] * (loops - 1))],
            ),
            StageTime(stage="head", loops=1, median_ms=head),
        ],
        prediction=None
        if peer
        else Prediction(
            ms=ms * (1.06 if loops > 2 else 0.97),
            stages=[
                StagePrediction(
                    stage="0-29",
                    loops=loops,
                    resident="L2" if loops > 1 else None,
                    memory_ms=first,
                    compute_ms=again * loops,
                    ms=first + (loops - 1) * again,
                    bound="memory",
                ),
                StagePrediction(stage="head", memory_ms=head, compute_ms=head / 3, ms=head, bound="memory"),
            ],
            kv_ms=0.1,
            overhead_ms=0.05,
        ),
        counters={} if peer else {"cycles": 2.8e6 * ms, "instructions": 6.1e6 * ms, "cache-misses": unique / 64},
        joules_per_token=None if peer else 0.003 * ms,
        peer=peer,
    )


def _loop_ms(threads: int, slower: float) -> tuple[float, float]:
    """(the first loop, each further one): from DRAM, and from a cache at the rate that arithmetic allows."""
    size = BLOCKS * BLOCK_BYTES
    return slower * size / (DRAM_GBPS * 0.92 * threads * 1e6), slower * size / (40 * threads * 1e6)


def _series() -> Iterator[Sample]:
    for second in range(0, 121, 2):
        warm = 1 - math.exp(-second / 40)
        yield Sample(
            t_s=float(second),
            mhz={0: 2800.0 if second < 90 else 2400.0, 1: 1800.0},
            celsius={"cpu-big": 38 + 22 * warm, "cpu-little": 36 + 12 * warm, "skin": 31 + 5 * warm},
        )
