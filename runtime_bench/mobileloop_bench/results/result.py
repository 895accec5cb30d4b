"""One row of a measurement's document, and what it is made of."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, WithJsonSchema, model_validator

from mobileloop_bench.results.prediction import Prediction
from mobileloop_bench.results.speed import Speed


class Memory(BaseModel):
    """Bytes that an artifact added to a process that had its runtime imported; null where the kernel hides them.

    Attributes:
        delta_anonymous_bytes: private memory (RssAnon) after opening, prefill and 8 decoded tokens, over before.
        kv_bytes: of these, what the KV cache of the evaluated tokens takes.
        delta_file_bytes: pages of mapped files (RssFile), the mapped weights among them.
        swap_bytes: private memory that was swapped out meanwhile, and so is missing above.
        peak_bytes: the largest resident size of that whole process, Python included (VmHWM).
    """

    model_config = ConfigDict(extra="allow")

    delta_anonymous_bytes: int | None = None
    kv_bytes: int | None = None
    delta_file_bytes: int | None = None
    swap_bytes: int | None = None
    peak_bytes: int | None = None
    threads: int | None = None
    reason: str | None = None


SKIPPED = "skipped: "
UNJUDGED = "not judged: the program that measured gives samples and no verdict"


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
        busy: processes of ours that computed beside it on purpose; the figure is then what was left, and not valid as
            the machine's own.
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
        median_low_ms, median_high_ms: the interval that holds the median with 95% confidence, as the rounds show it;
            null with fewer than 5 rounds.
        speeds: how fast the cores computed and read beside each round, null where that was not told.
        valid: False where `reasons` holds anything; the times are then kept for inspection only. What was not
            judged when it was measured (null in the file) is not valid.
        notes: doubts that do not make the median wrong; `results/validity.py` has the rules of both.
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
    busy: NonNegativeInt = 0
    stream: str | None = None
    samples_per_round: int | None = Field(default=None, ge=1)
    samples_ms: list[FiniteFloat]
    median_ms: FiniteFloat | None
    tokens_per_s: FiniteFloat | None
    unique_bytes: NonNegativeInt | None
    executed_bytes: NonNegativeInt | None
    kv_bytes: NonNegativeInt | None
    read_gbps: FiniteFloat | None
    valid: Annotated[bool, WithJsonSchema({"type": ["boolean", "null"]})] = False
    reasons: list[str] = []
    notes: list[str] = []
    median_low_ms: FiniteFloat | None = None
    median_high_ms: FiniteFloat | None = None
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
    speeds: list[Speed | None] = []
    details: dict[str, str] = {}
    stages: list[StageTime] = []
    prediction: Prediction | None = None
    counters: dict[str, FiniteFloat] = {}
    joules_per_token: FiniteFloat | None = None
    peer: Peer | None = None

    @model_validator(mode="before")
    @classmethod
    def _unjudged(cls, data: Any) -> Any:
        """The standalone program gives samples and no verdict."""
        if not isinstance(data, dict) or data.get("valid") is not None:
            return data
        return {**data, "valid": False, "reasons": data.get("reasons") or [UNJUDGED]}

    @property
    def skipped(self) -> bool:
        """Asked for and not run: the artifact or its runtime cannot, or the time budget was over before."""
        return not self.samples_ms and any(reason.startswith(SKIPPED) for reason in self.reasons)

    @property
    def half_width(self) -> float | None:
        """Half of the median's interval, as a share of the median."""
        if self.median_low_ms is None or self.median_high_ms is None or not self.median_ms:
            return None
        return (self.median_high_ms - self.median_low_ms) / 2 / self.median_ms

    @property
    def ceiling_share(self) -> float | None:
        """read_gbps over the measured read bandwidth; beyond 1 the weights came from a cache."""
        return self.read_gbps / self.ceiling_gbps if self.read_gbps is not None and self.ceiling_gbps else None


PHASES: tuple[Phase, ...] = get_args(Phase)


LOADING = ("load", "first_token")


TURN_PHASES: tuple[Phase, ...] = ("prefill", "decode")
