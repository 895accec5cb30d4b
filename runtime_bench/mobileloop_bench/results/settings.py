"""The knobs of one run, kept in its document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mobileloop.runtimes.base import MAX_SEQUENCES, MAX_THREADS, default_threads
from mobileloop.runtimes.streaming import Streaming
from mobileloop.runtimes.topology import check_cpus
from mobileloop_bench.writing.lists import numbers

MAX_DEPTH = 1 << 24


class Settings(BaseModel):
    """The knobs of one run, kept in its JSON document.

    Attributes:
        threads, loops, streams, depths, sequences: the sweep; `loops` null means each artifact's own count.
        repetitions: rounds; the fewest of them where `until_stable` or `time_budget_s` decide.
        cpus: where threads run; null leaves it to each runtime.
        cooldown_s: pause between two rounds.
        until_stable: go on until every decode median is known well enough (docs/measuring.md).
        time_budget_s: of the whole run; as many rounds as fit.
        ended: why no further round was run.
    """

    model_config = ConfigDict(extra="allow")

    threads: list[int]
    loops: list[int] | None = None
    streams: list[str] = ["off"]
    depths: list[int] = [0]
    sequences: list[int] = [1]
    prompt_tokens: int = Field(default=128, ge=1)
    decode_tokens: int = Field(default=64, ge=1)
    repetitions: int = Field(default=5, ge=1)
    seed: int = 0
    cpus: list[int] | None = None
    cooldown_s: float = Field(default=0, ge=0, allow_inf_nan=False)
    until_stable: bool = False
    time_budget_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    ended: str | None = None

    def swept(self) -> list[str]:
        """What the tables need a column for, beside loops and threads."""
        return [
            name
            for name, values, usual in (("depth", self.depths, [0]), ("batch", self.sequences, [1]))
            if values != usual
        ]

    @classmethod
    def parse(
        cls,
        threads: str | None = None,
        loops: str | None = None,
        streams: str = "auto",
        depths: str = "0",
        sequences: str = "1",
        cpus: Sequence[int] | None = None,
        **more: Any,
    ) -> Settings:
        """Settings from the comma lists of the command line; `more` are fields as they are.

        Args:
            threads: None is 1 and what suits the machine, or all of `cpus`.

        Raises:
            MobileloopError: naming the option whose list holds anything else.
        """
        check_cpus(cpus)
        asked = threads if threads is not None else f"1,{default_threads(cpus)}"
        return cls(
            threads=numbers(asked, "--threads", 1, MAX_THREADS),
            loops=None if loops is None else numbers(loops, "--loops"),
            streams=list(dict.fromkeys(str(Streaming.parse(one.strip())) for one in streams.split(","))),
            depths=numbers(depths, "--depth", 0, MAX_DEPTH),
            sequences=numbers(sequences, "--batch", 1, MAX_SEQUENCES),
            cpus=None if cpus is None else list(cpus),
            **more,
        )
