"""The bandwidth ladder: what a machine reads per second from each working-set size; the knees are its caches.

It is the denominator of every efficiency we print, and what the model of time predicts from.
"""

from __future__ import annotations

import statistics
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

MAX_SPREAD = 1.5  # upper over lower quartile of a rung's samples
State = Literal["warm", "cold"]
# In 1e9 bytes per second; a file with more or less would give times that are no numbers.
Gbps = Annotated[float, Field(ge=1e-6, le=1e6)]


class Rung(BaseModel):
    """Read bandwidth of one working-set size.

    Attributes:
        size_bytes: of all threads together; each reads its own part again and again.
        cluster: index into the machine's clusters whose cpus ran; null where the threads ran anywhere.
        state: `warm`: read before, so that what fits a cache is there; `cold`: evicted before every pass.
        read_gbps: median of the samples, in 1e9 bytes per second.
    """

    model_config = ConfigDict(extra="allow")

    size_bytes: int = Field(gt=0)
    threads: int = Field(ge=1)
    cluster: int | None = None
    state: State = "warm"
    read_gbps: Gbps
    samples_gbps: list[FiniteFloat] = []

    @property
    def disturbed(self) -> bool:
        """Whether the middle half of its samples spreads so widely that their median says little."""
        if len(self.samples_gbps) < 2:
            return False
        low, _, high = statistics.quantiles(self.samples_gbps, n=4, method="inclusive")
        return high > MAX_SPREAD * low


class Step(BaseModel):
    """One level of the ladder between two knees: a cache, or DRAM.

    Attributes:
        level: `L1`, `L2`, `L3`, ... or `DRAM`.
        up_to_bytes: the largest working set of all threads that is still read at this rate; null for DRAM.
        latency_ns: of one dependent load, by pointer chase; null where it was not measured.
    """

    model_config = ConfigDict(extra="allow")

    level: str
    threads: int = Field(ge=1)
    cluster: int | None = None
    up_to_bytes: int | None = Field(default=None, gt=0)
    read_gbps: Gbps
    latency_ns: FiniteFloat | None = Field(default=None, gt=0)


class Latency(BaseModel):
    """Nanoseconds of one dependent load in a working set of `size_bytes`, by pointer chase on one thread."""

    model_config = ConfigDict(extra="allow")

    size_bytes: int = Field(gt=0)
    cluster: int | None = None
    state: State = "warm"
    ns: FiniteFloat = Field(gt=0)
    samples_ns: list[FiniteFloat] = []


class Ladder(BaseModel):
    """Everything `mobileloop bandwidth` found; `steps` are read from `rungs` and `latencies`.

    A machine file from published figures has steps only.

    Attributes:
        cold_by: how the working set was evicted before every cold pass; null where nothing was measured cold.
        kernels: the kernel set whose loads were timed.
        huge_pages: whether the system was asked for them.
        notes: what must be said beside the figures.
        interrupted: True where Ctrl-C ended it; every thread count that is there is complete.
    """

    model_config = ConfigDict(extra="allow")

    rungs: list[Rung] = []
    latencies: list[Latency] = []
    steps: list[Step] = []
    cold_by: str | None = None
    kernels: str | None = None
    huge_pages: bool | None = None
    notes: list[str] = []
    interrupted: bool = False

    def steps_of(self, threads: int, cluster: int | None = None) -> list[Step]:
        """The steps of one thread count and cluster, from the smallest working set to DRAM."""
        found = [step for step in self.steps if step.threads == threads and step.cluster == cluster]
        return sorted(found, key=lambda step: step.up_to_bytes or float("inf"))

    def dram_gbps(self, threads: int, cluster: int | None = None) -> float | None:
        """What `threads` threads read from DRAM in 1e9 bytes per second; None where it was not measured."""
        steps = self.steps_of(threads, cluster)
        return steps[-1].read_gbps if steps and steps[-1].up_to_bytes is None else None
