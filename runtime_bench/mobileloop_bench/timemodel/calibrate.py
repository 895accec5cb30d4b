"""The engine's costs on this machine, measured with the engine: what the model of time needs beside the ladder.

Blocks of random weights run through `ml_loop`. One that fits the private cache, looped many times, gives the compute
rate; a tiny one the barriers; as many as no cache holds, looped once, twice and four times, give how much of the
arithmetic hides behind the memory, and what the second application still finds in the caches.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from mobileloop.artifact import ArtifactInfo, Costs
from mobileloop.checkpoints.random import random_model
from mobileloop.packed import PackedModel, shape_costs
from mobileloop.runtimes import abi, native
from mobileloop.runtimes.engine import EngineSession
from mobileloop.runtimes.topology import read_topology
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.costs import kv_vector_bytes
from mobileloop_bench.bandwidth.memory import read_bandwidth
from mobileloop_bench.machine.file import EngineCosts
from mobileloop_bench.timemodel.predict import kv_pages
from mobileloop_export.formats import exporter

Progress = Callable[[str, float], None]

ROUNDS = 7  # where the time allows
SECONDS = 20.0
MANY = 33  # loops of a resident block; one of them is not counted
HIDDEN = (512, 384, 256, 192, 128)  # of the resident block: the largest that fits
STREAMED_HIDDEN = (512, 640, 768, 960, 1280, 1600, 2048)  # of the block beyond the private caches: the smallest
STREAMED_BYTES = 256 << 20  # of all of them: beyond the last-level cache
UNKNOWN_PRIVATE_BYTES = 1 << 20
LENGTHS = (64, 1024)  # positions between which attention is measured
SLOT_LENGTHS = (8, 200)  # the same, where the KV cache lies in many slots
STREAMED_LOOPS = 4
ALIGNMENT = 4096


def measure_costs(
    threads: Sequence[int], progress: Progress = lambda step, done: None, seconds: float = SECONDS
) -> EngineCosts | None:
    """Measure every probe once per round, so that a disturbance hits all alike; ten seconds on two quiet cores.

    Args:
        threads: counts to measure; one thread is measured too.
        progress: called between probes with what comes next and the share done.
        seconds: no probe begins later than that.

    Returns:
        None where the time was over before every probe had run once.

    Raises:
        MobileloopError: where the engine was not built or refuses so many threads.
    """
    counts = sorted({1, *threads})
    end = time.monotonic() + seconds
    with ExitStack() as stack:
        probes = _Probes(stack, counts, progress)
        whole = [probes.round(turn, end) for turn in range(ROUNDS)]
        return probes.costs() if whole[0] else None


def unhidden(measured: float, memory: float, compute: float, cached: float) -> float:
    """The share of the shorter of two that was not hidden behind the longer: `predict` backwards, for one pass.

    Args:
        measured: time of the pass.
        memory, compute: what moving its bytes and the arithmetic take alone.
        cached: what reading the bytes takes where compute was measured; that much of memory is in compute.
    """
    exposed = min(max(memory - cached, 0.0), compute)
    return min(max((measured - max(memory, compute)) / exposed, 0.0), 1.0) if exposed > 0 else 0.0


def reread_share(first: float, second: float, later: float) -> float | None:
    """How much of a second application was read as the first one was, from the times of three in a row.

    None where later applications are no faster than the first: no cache between the private ones and memory.
    """
    return min(max((second - later) / (first - later), 0.0), 1.0) if later < 0.9 * first else None


class Applied:
    """Blocks and a context of the engine that applies each of them, one call a block, each on KV slots of its own."""

    def __init__(
        self, records: Sequence[NDArray[np.uint8]], config: ModelConfig, threads: int, slots: int, capacity: int = 16
    ) -> None:
        self._context = ctypes.c_void_p()
        engine = native.library()
        size = slots * config.num_kv_heads * capacity * kv_vector_bytes(config.head_dim, 16)
        # Not numpy's memory, which lies in large pages where a session's KV cache does not.
        caches = [np.frombuffer(mmap.mmap(-1, len(records) * size), dtype=np.uint8) for _ in range(2)]
        hidden = np.ones(config.hidden_size, dtype=np.float32)
        self._kept = [*records, *caches, hidden]  # whatever the arguments point to
        self._sequences, self._calls = [], []
        for number, record in enumerate(records):
            keys, values = (cache.ctypes.data + number * size for cache in caches)
            sequence = abi.SequenceArgs(keys, values, size, 0)
            args = abi.LoopArgs(num_blocks=1, damping=1.0, hidden_size=config.hidden_size, tokens=1, num_sequences=1)
            args.blocks = ctypes.pointer(abi.Record(record.ctypes.data, record.nbytes))
            args.sequences = ctypes.pointer(sequence)
            args.hidden_in = args.hidden_out = hidden.ctypes.data
            args.kv_type, args.num_slots, args.capacity = 16, slots, capacity
            self._sequences.append(sequence)
            self._calls.append(args)
        native.check(engine.ml_context_create(threads, ctypes.byref(self._context)))

    def us(self, loops: int, position: int = 8, times: int = 1) -> float:
        """Time of applying every block `loops` times: the median of `times`, after one that is not counted."""
        engine, samples = native.library(), []
        for sequence, args in zip(self._sequences, self._calls, strict=True):
            sequence.position, args.loops = position, loops
        for _ in range(times + 1):
            start = time.perf_counter_ns()
            for args in self._calls:
                native.check(engine.ml_loop(self._context, ctypes.byref(args)))
            samples.append((time.perf_counter_ns() - start) / 1e3)
        return statistics.median(samples[1:])

    def close(self) -> None:
        """End the threads."""
        native.library().ml_context_destroy(self._context)


def block_config(hidden: int, heads: int | None = None, kv_heads: int = 1) -> ModelConfig:
    """One block of about the proportions of the models we run."""
    return ModelConfig(
        name=f"calibration-{hidden}",
        vocab_size=512,
        hidden_size=hidden,
        intermediate_size=-(-hidden * 8 // 3 // 64) * 64,
        num_blocks=1,
        num_heads=heads or hidden // 64,
        num_kv_heads=kv_heads,
        head_dim=64,
        random_weights=True,
    )


def packed_block(config: ModelConfig, quantization: str) -> PackedModel:
    """The model of one random block."""
    return PackedModel.from_checkpoint(random_model(config), quantization)


def copies(record: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
    """The same block at `count` places of memory, each on a page of its own."""
    room = np.empty(count * record.nbytes + ALIGNMENT, dtype=np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    placed = room[start : start + count * record.nbytes].reshape(count, record.nbytes)
    placed[:] = record
    return list(placed)


@dataclass
class _Samples:
    """Times in us, one per round."""

    values: dict[tuple[object, ...], list[float]] = field(default_factory=dict)

    def add(self, value: float, *key: object) -> None:
        self.values.setdefault(key, []).append(value)

    def median(self, *key: object) -> float:
        return statistics.median(self.values[key])


class _Probes:
    """Everything that is measured, and what follows from it."""

    def __init__(self, stack: ExitStack, counts: Sequence[int], progress: Progress) -> None:
        self.counts, self.progress, self.samples = counts, progress, _Samples()
        self.private = _private_bytes()
        progress("making blocks", 0.0)
        self.bytes: dict[str, int] = {}
        self.appliers: dict[tuple[str, int], Applied] = {}
        self._stack = stack
        self._add("tiny", block_config(64), "int4", counts)
        for scheme in ("int4", "int4-symmetric", "int8", "none"):
            self._add(scheme, self._resident(scheme), scheme, counts if scheme == "int4" else [1])
        self._add("attention", block_config(192, heads=3), "int4", [1], slots=1, capacity=LENGTHS[1] + 1)
        self._add_streamed()
        self.session = stack.enter_context(_tiny_session())

    def round(self, turn: int, end: float) -> bool:
        """Every probe once, until the clock says `end`; whether all of them ran."""
        steps: list[int | str] = [*self.counts, "arithmetic", "call"]
        for done, step in enumerate(steps):
            if time.monotonic() >= end:
                return False
            title = f"{step} threads" if isinstance(step, int) else step
            self.progress(title, (turn + done / len(steps)) / ROUNDS)
            if isinstance(step, int):
                self._threads(step)
            elif step == "arithmetic":
                self._arithmetic()
            else:
                self._call()
        return True

    def costs(self) -> EngineCosts:
        """What the samples say."""
        median = self.samples.median
        tiny = median("tiny", 1)
        rates = {
            scheme: (self.bytes[scheme] - self.bytes["tiny"]) / max(median(scheme, 1) - tiny, 1e-3) / 1e3
            for scheme in ("int4", "int4-symmetric", "int8", "none")
        }
        rate = rates.pop("int4")
        application = {
            threads: max(median("int4", threads) - self.bytes["int4"] / rate / threads / 1e3, 0.0)
            for threads in self.counts
        }
        region = {threads: max(median("region", threads), 0.0) for threads in self.counts}
        resident = median("resident read", 1)
        attention = max(median("attention"), 0.0)
        page_us = self._kv_page_us(attention)
        pages = kv_pages(self.streamed_config, SLOT_LENGTHS[0], 16, os.sysconf("SC_PAGE_SIZE"))
        shares, misses = self._streamed(rate, resident, application, region, pages * page_us)
        return EngineCosts(
            kernels=native.kernels(),
            compute_gbps=rate,
            resident_gbps=resident,
            scheme_gbps=rates,
            region_us=region,
            application_us=application,
            token_us=max(median("call") - region[1] - tiny, 0.0),
            attention_ns=attention * 1e3,
            kv_page_us=page_us,
            overlap=1 - statistics.median(shares),
            reread_misses=statistics.median(misses) if misses else None,
        )

    def _kv_page_us(self, attention_us: float) -> float:
        """What a page of KV cache costs beside attending to it, from the same calls behind few and many tokens."""
        short, long = SLOT_LENGTHS
        applications = self.blocks * STREAMED_LOOPS
        more = (self.samples.median("long slots") - self.samples.median("streamed", 1, STREAMED_LOOPS)) / applications
        attending = self.streamed_config.num_heads * (long - short) * attention_us
        page = os.sysconf("SC_PAGE_SIZE")
        pages = kv_pages(self.streamed_config, long, 16, page) - kv_pages(self.streamed_config, short, 16, page)
        return max(more - attending, 0.0) / pages

    def _streamed(
        self, rate: float, resident: float, application: dict[int, float], region: dict[int, float], pages_us: float
    ) -> tuple[list[float], list[float]]:
        """Unhidden shares of the first and of the later applications, and how much a second one misses."""
        size, median = self.bytes["streamed"], self.samples.median
        shares, misses = [], []
        for threads in self.counts:
            compute, cached = (size / (gbps * threads) / 1e3 for gbps in (rate, resident))
            once, twice, most = (median("streamed", threads, n) / self.blocks for n in (1, 2, STREAMED_LOOPS))
            aside = application[threads] + pages_us / threads
            first, second = once - region[threads] - aside, twice - once - aside
            later = (most - twice) / (STREAMED_LOOPS - 2) - aside
            for taken, read in ((first, "home read"), (later, "shared read")):
                shares.append(unhidden(taken, size / median(read, threads) / 1e3, compute, cached))
            missed = reread_share(first, second, later)
            misses += [] if missed is None else [missed]
        return shares, misses

    def _threads(self, threads: int) -> None:
        tiny, resident = self.appliers["tiny", threads], self.appliers["int4", threads]
        once = tiny.us(1, times=20)
        application = (tiny.us(MANY, times=5) - once) / (MANY - 1)
        self.samples.add(application, "tiny", threads)
        self.samples.add(once - application, "region", threads)
        self.samples.add(_per_loop(resident), "int4", threads)
        streamed = self.appliers["streamed", threads]
        for loops in (1, 2, STREAMED_LOOPS):
            self.samples.add(streamed.us(loops), "streamed", threads, loops)
        if threads == 1:
            self.samples.add(streamed.us(STREAMED_LOOPS, SLOT_LENGTHS[1]), "long slots")
        total = self.blocks * self.bytes["streamed"]
        self.samples.add(read_bandwidth(threads, total, 0.02), "home read", threads)
        self.samples.add(read_bandwidth(threads, self.bytes["streamed"], 0.02), "shared read", threads)

    def _arithmetic(self) -> None:
        for scheme in ("int4-symmetric", "int8", "none"):
            self.samples.add(_per_loop(self.appliers[scheme, 1]), scheme, 1)
        self.samples.add(read_bandwidth(1, self.bytes["int4"], 0.02), "resident read", 1)
        attention, (short, long) = self.appliers["attention", 1], LENGTHS
        more = attention.us(1, position=long, times=10) - attention.us(1, position=short, times=10)
        self.samples.add(more / (long - short) / 3, "attention")

    def _call(self) -> None:
        samples = []
        for _ in range(30):
            start = time.perf_counter_ns()
            self.session.decode(1)
            samples.append((time.perf_counter_ns() - start) / 1e3)
        self.session.reset()
        self.samples.add(statistics.median(samples[5:]), "call")

    def _resident(self, scheme: str) -> ModelConfig:
        """The largest block of a scheme that fits the private cache with room to spare."""
        for hidden in HIDDEN[:-1]:
            config = block_config(hidden)
            if _stored(config, scheme) <= 0.7 * self.private:
                return config
        return block_config(HIDDEN[-1])

    def _add(
        self,
        name: str,
        config: ModelConfig,
        quantization: str,
        counts: Sequence[int],
        slots: int = MANY,
        capacity: int = 16,
    ) -> None:
        packed = packed_block(config, quantization)
        self.bytes[name] = packed.block_bytes(0)
        for threads in counts:
            records = copies(packed.block_record(0), 1)
            self._apply(name, threads, Applied(records, config, threads, slots, capacity))

    def _add_streamed(self) -> None:
        enough = 1.5 * self.private * max(self.counts)
        configs = [block_config(hidden) for hidden in STREAMED_HIDDEN]
        config = next((c for c in configs if _stored(c, "int4") >= enough), configs[-1])
        packed = packed_block(config, "int4")
        record = packed.block_record(0)
        self.bytes["streamed"] = packed.block_bytes(0)
        total = min(STREAMED_BYTES, int(psutil.virtual_memory().available) // 8)
        self.blocks = max(total // record.nbytes, 2)
        records = copies(record, self.blocks)
        for threads in self.counts:
            capacity = SLOT_LENGTHS[1] + 1
            self._apply("streamed", threads, Applied(records, config, threads, STREAMED_LOOPS, capacity))
        self.streamed_config = config

    def _apply(self, name: str, threads: int, applied: Applied) -> None:
        self._stack.callback(applied.close)
        self.appliers[name, threads] = applied


def _per_loop(applied: Applied) -> float:
    return (applied.us(MANY, times=5) - applied.us(1, times=5)) / (MANY - 1)


def _stored(config: ModelConfig, scheme: str) -> int:
    return Costs.model_validate(shape_costs(config, scheme)).block_bytes[0]


def _private_bytes() -> int:
    """The largest cache that a core has for itself; the smallest of the cores' where they differ."""
    sizes = [cpu.private_cache_bytes for cpu in read_topology().cpus]
    return min((size for size in sizes if size), default=UNKNOWN_PRIVATE_BYTES)


@contextmanager
def _tiny_session() -> Iterator[EngineSession]:
    """A session whose token costs next to nothing but the call."""
    checkpoint = random_model(block_config(64))
    packed = PackedModel.from_checkpoint(checkpoint)
    info = ArtifactInfo.describe(checkpoint, packed, context=64, kv_bits=16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "calibration.safetensors"
        exporter("engine")(packed, info, path, lambda step, done: None)
        session = EngineSession(path, threads=1)
        try:
            yield session
        finally:
            session.close()
