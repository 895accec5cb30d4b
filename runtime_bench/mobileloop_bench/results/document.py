"""The JSON document of a measurement, read back as strictly as it is written.

Keys are fixed; others may be added and are kept. An unknown figure is null, never infinity or NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, FiniteFloat, model_validator
from typing_extensions import Self

from mobileloop_bench.bandwidth.ceiling import Bandwidth
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.machine.ladder import Ladder
from mobileloop_bench.results.agreement import Agreement
from mobileloop_bench.results.result import UNJUDGED, Result, Sample
from mobileloop_bench.results.settings import Settings
from mobileloop_bench.results.validity import Evidence, judged
from mobileloop_bench.writing.documents import VersionedDocument


class Document(VersionedDocument):
    """One run of `mobileloop bench`; `interrupted` until its last turn is over, so a killed run says so too.

    Attributes:
        id: random, the same for every state of one run's file; null in version 1.
        recipe: the name of a fixed set of configurations, where one was measured.
        agreement: whether the runtimes said the same before they were measured, where that was checked.
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
    recipe: str | None = None
    agreement: Agreement | None = None
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

    @model_validator(mode="after")
    def _judge(self) -> Self:
        """The standalone program gives samples and no verdict; it is given here, by the rules of every other run."""
        cpus = self.settings.cpus if self.settings else None
        seen = Evidence(self.machine, None if cpus is None else len(cpus), self.interrupted)
        self.results = [judged(row, seen) if row.reasons == [UNJUDGED] else row for row in self.results]
        return self


def read_document(path: Path) -> Document:
    """A result file; see `VersionedDocument.read`."""
    return Document.read(path)


def decode_rows(documents: Sequence[Document]) -> list[Result]:
    """Every decoded configuration with a time."""
    return [row for document in documents for row in document.results if row.phase == "decode" and row.median_ms]
