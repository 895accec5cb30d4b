"""What the model of time says of one decoded token: plain data, so that results and reports can carry it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat


class StagePrediction(BaseModel):
    """One stage, or the head.

    Attributes:
        stage: its blocks such as `0-29`, or `head`.
        resident: the level its repeats are read from (`L2`, `L3`, ...); `DRAM` where they do not fit any cache; null
            where nothing is repeated.
        memory_ms, compute_ms: time of moving its bytes, and of the arithmetic; `ms` is what both take together.
        bound: which of the two sets the time.
    """

    model_config = ConfigDict(extra="allow")

    stage: str
    loops: int = 1
    resident: str | None = None
    memory_ms: FiniteFloat
    compute_ms: FiniteFloat
    ms: FiniteFloat
    bound: Literal["memory", "compute"]


class Prediction(BaseModel):
    """Predicted time of one decoded token; `ms` is the sum of the stages, of KV reads and of what is left over.

    Attributes:
        streamed_ms: the same where all that comes from memory moves while anything else is computed: no streaming can
            do better.
        notes: what was not known and left out, or taken from something like it.
    """

    model_config = ConfigDict(extra="allow")

    ms: FiniteFloat
    stages: list[StagePrediction] = []
    kv_ms: FiniteFloat = 0.0
    overhead_ms: FiniteFloat = 0.0
    streamed_ms: FiniteFloat | None = None
    notes: list[str] = []
