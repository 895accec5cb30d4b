"""The raw samples that a turn leaves behind, whoever took it."""

from __future__ import annotations

import gc
import random
import time
from dataclasses import dataclass, field
from typing import Protocol

from mobileloop_bench.measure.plan import Configuration, Plan
from mobileloop_bench.results.speed import Speed


@dataclass(frozen=True)
class Moment:
    """Clocks in MHz by cluster and degrees Celsius by zone, `t_s` after the start of the run."""

    t_s: float
    mhz: dict[int, float]
    celsius: dict[str, float]


@dataclass
class Consumption:
    """Sums over the decoded tokens of one configuration; `tokens` and `metered_tokens` are how many they are of."""

    tokens: int = 0
    events: dict[str, float] = field(default_factory=dict)
    metered_tokens: int = 0
    joules: float = 0.0


@dataclass
class Interference:
    """Sums over the turns of one configuration, in seconds; `known` is False where procfs does not tell.

    Attributes:
        other_s: processor time of other programs.
        stolen_s: processor time that the hypervisor gave to other machines.
        switches: times that a thread of ours had to leave its core for another; None where that is not told.
    """

    wall_s: float = 0.0
    other_s: float = 0.0
    stolen_s: float = 0.0
    known: bool = True
    switches: int | None = 0

    def switches_per_s(self) -> float | None:
        """Of all threads together."""
        return self.switches / self.wall_s if self.switches is not None and self.wall_s else None

    def other_cores(self) -> float | None:
        """Cores that other programs kept busy, on average."""
        return max(self.other_s, 0.0) / self.wall_s if self.known and self.wall_s else None

    def stolen_cores(self) -> float | None:
        """Cores that the hypervisor took away, on average."""
        return self.stolen_s / self.wall_s if self.known and self.wall_s else None


@dataclass
class Samples:
    """The raw times of one configuration, in ms.

    Attributes:
        load_ms: opening the artifact, with the file in the page cache and the runtime's library loaded; one per
            repetition.
        first_token_ms: the same opening and evaluating the first 8 tokens.
        prefill_ms: the whole prompt of all sequences; one per repetition.
        decode_ms: one per decoded token (of all sequences), repetition after repetition.
        stage_ms: of tokens apart from the timed ones: every row of `EngineSession.stage_times`.
        interference: other programs during prefill and decode.
        consumption: hardware events and energy of the decoded tokens.
        mhz, celsius: the clock and the temperature behind each repetition, None where the machine hides one; empty
            where it hides both.
        speeds: how fast the cores were beside each turn; None where that was not told.
        details: what the session said of itself; the artifact's where none was opened yet.
        failure: why there are no more of a peer's; None where nothing failed.
    """

    configuration: Configuration
    load_ms: list[float] = field(default_factory=list)
    first_token_ms: list[float] = field(default_factory=list)
    prefill_ms: list[float] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)
    stage_ms: list[list[tuple[str, list[float]]]] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)
    interference: Interference = field(default_factory=Interference)
    consumption: Consumption = field(default_factory=Consumption)
    mhz: list[float | None] = field(default_factory=list)
    celsius: list[float | None] = field(default_factory=list)
    speeds: list[Speed | None] = field(default_factory=list)
    failure: str | None = None

    def __post_init__(self) -> None:
        """Beside busy processes threads are switched as often as they are; nobody is to be blamed for it."""
        if self.configuration.busy:
            self.interference.switches = None


class Runner(Protocol):
    """What the rounds ask of whatever takes part in them; `samples` grow with every turn."""

    samples: Samples

    def evaluate(self) -> None:
        """Time one prompt and the tokens behind it."""

    def load(self) -> None:
        """Time an opening that is closed again, beside what is open already."""

    def close(self) -> None:
        """Give memory back until the next turn."""


def prompt_of(vocab_size: int, count: int, seed: int) -> list[int]:
    """The same pseudo-random token ids for every configuration of one vocabulary."""
    generator = random.Random(seed)
    return [generator.randrange(vocab_size) for _ in range(count)]


def ms_since(start_ns: int) -> float:
    """Milliseconds since a reading of `time.perf_counter_ns`."""
    return (time.perf_counter_ns() - start_ns) / 1e6


class quiet:
    """No garbage collection inside a timed block; it would land in some samples and not in others."""

    def __enter__(self) -> None:
        gc.collect()
        gc.disable()

    def __exit__(self, *error: object) -> None:
        gc.enable()


@dataclass
class Measurement:
    """Every configuration's samples; `interrupted` where the user stopped before the end.

    Attributes:
        ended: why no further round was run.
        series: clocks and temperatures over time.
    """

    plan: Plan
    samples: list[Samples]
    sessions_kept: bool = True
    interrupted: bool = False
    ended: str | None = None
    series: list[Moment] = field(default_factory=list)
