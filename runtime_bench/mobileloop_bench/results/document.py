"""The JSON document of a measurement, read back as strictly as it is written.

Keys are fixed; others may be added and are kept. An unknown figure is null, never infinity or NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt

from mobileloop_bench.bandwidth.ceiling import Bandwidth
from mobileloop_bench.machine.ladder import Ladder
from mobileloop_bench.machine.probe import Machine
from mobileloop_bench.measure.memory import Memory
from mobileloop_bench.measure.plan import Settings
from mobileloop_bench.results.prediction import Prediction
from mobileloop_bench.writing.documents import VersionedDocument

SKIPPED = "skipped: "
Phase = Literal["load", "first_token", "prefill", "decode"]


class StageTime(BaseModel):
    """Measured time of one stage of a decoded token, or of the head.

    Attributes:
        stage: its blocks such as `0-29`, or `head`.
        median_ms: of the whole stage.
        loop_ms: median of its first loop, its second, ...: the first brings the weights, the others re-read them.
    """

    model_config = ConfigDict(extra="allow")

    stage: str
    loops: int = Field(ge=1)
    median_ms: FiniteFloat
    loop_ms: list[FiniteFloat] = []


class Peer(BaseModel):
    """Another project's runtime that was measured in the same rounds."""

    model_config = ConfigDict(extra="allow")

    name: str
    version: str | None = None
    flags: str | None = None


class Sample(BaseModel):
    """The machine at one moment of the run; what it hides is left out.

    Attributes:
        t_s: seconds since the run began.
        mhz: current frequency by cluster (index into the machine's clusters).
        celsius: temperature by zone.
    """

    model_config = ConfigDict(extra="allow")

    t_s: FiniteFloat
    mhz: dict[int, FiniteFloat] = {}
    celsius: dict[str, FiniteFloat] = {}


class Result(BaseModel):
    """One phase of one configuration.

    Attributes:
        loops: loops of the looped stages.
        phase: `load` opens the artifact; `first_token` opens it and evaluates 8 tokens, with the file in the page
            cache and the runtime's library loaded; `prefill` is the prompt in an open session; `decode` one token.
        depth: tokens already in the KV cache before the prompt.
        sequences: that run together over the same weights. One sample is then one step of all of them: the weights
            count once, KV, activations and tokens_per_s are those of all.
        stream: the mode that ran (`off`, `prefetch`, `core:N`); null where the runtime knows none.
        samples_ms: every raw time: of a load, of a whole prefill, of every single decoded token.
        samples_per_round: how many of them, in order, each round gave.
        tokens_per_s: decode 1000 / median_ms; prefill prompt tokens per second; load null.
        unique_bytes: weight bytes read at least once per token.
        executed_bytes: weight bytes touched per token, counted once per application.
        kv_bytes: KV bytes read and written per token, all applications: decode at the middle of the decoded
            tokens, prefill by its last token, load null.
        block_bytes: weight bytes of the largest block.
        stage_bytes: of all blocks of the largest looped stage, which must fit a cache for its repeats to be read from
            there; null where nothing is looped.
        read_gbps: decode (unique_bytes + kv_bytes) / median time, in 1e9 bytes per second: what must come from
            memory if every block is resident while it is applied again. Null for load and for prefill, which
            reads a block once for many tokens and is bound by arithmetic.
        executed_gbps: decode (executed_bytes + kv_bytes) / median time: what the kernels consumed, from
            whatever cache. Above the read bandwidth it proves that blocks were re-read from cache.
        ceiling_gbps: the measured read bandwidth of as many threads.
        loop_tax: decode median over that of 1 loop, same artifact, threads and run; null without the latter.
        stages: where the time of a decoded token went; empty where the runtime does not tell.
        counters: hardware events per decoded token, by name; empty where the system does not allow them.
        peer: set where another project's runtime ran; byte counts are then null unless they are known.
        valid: False where `reasons` holds anything; the times are then kept for inspection only.
    """

    model_config = ConfigDict(extra="allow")

    artifact: str
    runtime: str
    model: str
    quantization: str
    loops: int = Field(ge=1)
    threads: int = Field(ge=1)
    phase: Phase
    depth: NonNegativeInt = 0
    sequences: int = Field(default=1, ge=1)
    stream: str | None = None
    samples_per_round: int | None = Field(default=None, ge=1)
    samples_ms: list[FiniteFloat]
    median_ms: FiniteFloat | None
    tokens_per_s: FiniteFloat | None
    unique_bytes: NonNegativeInt | None
    executed_bytes: NonNegativeInt | None
    kv_bytes: NonNegativeInt | None
    read_gbps: FiniteFloat | None
    valid: bool
    reasons: list[str]
    p10_ms: FiniteFloat | None = None
    p90_ms: FiniteFloat | None = None
    p99_ms: FiniteFloat | None = None
    executed_gbps: FiniteFloat | None = None
    ceiling_gbps: FiniteFloat | None = None
    ceiling_tokens_per_s: FiniteFloat | None = None
    loop_tax: FiniteFloat | None = None
    repetitions: int | None = None
    context_tokens: int | None = None
    schedule: str | None = None
    activation_bytes: NonNegativeInt | None = None
    block_bytes: NonNegativeInt | None = None
    stage_bytes: NonNegativeInt | None = None
    size_on_disk_bytes: NonNegativeInt | None = None
    random_weights: bool | None = None
    source: str | None = None
    source_sha256: str | None = None
    memory: Memory | None = None
    other_cores: FiniteFloat | None = None
    stolen_cores: FiniteFloat | None = None
    details: dict[str, str] = {}
    stages: list[StageTime] = []
    prediction: Prediction | None = None
    counters: dict[str, FiniteFloat] = {}
    joules_per_token: FiniteFloat | None = None
    peer: Peer | None = None

    @property
    def skipped(self) -> bool:
        """Asked for and not run: the artifact or its runtime cannot, or the time budget was over before."""
        return not self.samples_ms and any(reason.startswith(SKIPPED) for reason in self.reasons)

    @property
    def ceiling_share(self) -> float | None:
        """read_gbps over the measured read bandwidth; beyond 1 the weights came from a cache."""
        return self.read_gbps / self.ceiling_gbps if self.read_gbps is not None and self.ceiling_gbps else None


class Document(VersionedDocument):
    """One run of `mobileloop bench`; `interrupted` until its last turn is over, so a killed run says so too.

    Attributes:
        id: random, the same for every state of one run's file; null in version 1.
        ladder: of the machine, where it was measured or given.
        series: the machine over time, from the start of the run.
        seconds: that the run took so far.
    """

    NAME: ClassVar[str] = "mobileloop.bench"
    VERSION: ClassVar[int] = 2
    ORIGIN: ClassVar[str] = "mobileloop bench --json"

    id: str | None = None
    machine: Machine
    results: list[Result]
    bandwidth: list[Bandwidth] = Field(default_factory=list)
    ladder: Ladder | None = None
    series: list[Sample] = Field(default_factory=list)
    settings: Settings | None = None
    command: str | None = None
    interrupted: bool = False
    seconds: FiniteFloat | None = None

    @classmethod
    def upgraded(cls, data: dict[str, Any], version: int) -> dict[str, Any]:
        """Version 1 timed opening and the first tokens as one phase and called it `load`."""
        if version >= 2 or not isinstance(data.get("results"), list):
            return data
        rows = [
            {**row, "phase": "first_token"} if isinstance(row, dict) and row.get("phase") == "load" else row
            for row in data["results"]
        ]
        return {**data, "results": rows}


def read_document(path: Path) -> Document:
    """A result file; see `VersionedDocument.read`."""
    return Document.read(path)


def decode_rows(documents: Sequence[Document]) -> list[Result]:
    """Every decoded configuration with a time."""
    return [row for document in documents for row in document.results if row.phase == "decode" and row.median_ms]
