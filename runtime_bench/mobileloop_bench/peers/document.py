"""The JSON document of a run against the peers: every raw sample, and what is needed to judge it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from mobileloop.errors import MobileloopError, validated
from mobileloop.files import written_whole
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.peers.contestant import Settings

SCHEMA = "mobileloop.peers/1"


class Sample(BaseModel):
    """One process of one round.

    Attributes:
        series: the raw samples by name, in the unit that the name says, tokens/s where it says none.
        other_cores: cores that other programs kept busy meanwhile; busy neighbours of our own are not counted.
        stolen_cores: cores that the hypervisor took away.
        error: why there are no samples.
    """

    model_config = ConfigDict(extra="allow")

    series: dict[str, list[FiniteFloat]] = {}
    wall_s: FiniteFloat = 0.0
    other_cores: FiniteFloat | None = None
    stolen_cores: FiniteFloat | None = None
    error: str | None = None


class Round(BaseModel):
    """Every cell once, in `order`; `samples` by `contestant/cell`."""

    model_config = ConfigDict(extra="allow")

    number: int
    started: str
    order: list[str]
    samples: dict[str, Sample]


class Agreement(BaseModel):
    """A greedy continuation of the prompt.

    Attributes:
        same: how many of its first tokens are those of the reference of the same loop count.
        error: why there is none.
    """

    model_config = ConfigDict(extra="allow")

    contestant: str
    loops: int
    tokens: list[int] = []
    same: int = 0
    text: str = ""
    error: str | None = None


class PeersDocument(BaseModel):
    """One run.

    Attributes:
        versions: by contestant that takes part.
        missing: by contestant that does not, with the reason.
        unavailable: by cell that does not exist yet, with the reason.
        reference: who made the tokens that `agreement` compares with.
    """

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    schema_: str = Field(default=SCHEMA, alias="schema")
    machine: Machine
    settings: Settings
    labels: dict[str, str] = {}
    versions: dict[str, dict[str, str]] = {}
    missing: dict[str, str] = {}
    unavailable: dict[str, str] = {}
    sources: dict[str, str] = {}
    reference: str = ""
    agreement: list[Agreement] = []
    rounds_wanted: int = 0
    rounds: list[Round] = []
    interrupted: bool = False
    command: str | None = None

    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for the rounds of two runs to be of one kind."""
        return {
            "settings": self.settings.model_dump(),
            "versions": self.versions,
            "sources": self.sources,
            "processor": self.machine.cpu,
            "commit": self.machine.git_commit,
        }

    def write(self, path: Path) -> None:
        """Write the document whole or not at all."""
        text = json.dumps(self.model_dump(mode="json", by_alias=True), allow_nan=False, indent=1)
        with written_whole(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def read_peers(path: Path) -> PeersDocument:
    """Read a document back.

    Raises:
        MobileloopError: where it is no such document.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MobileloopError(f"{path} cannot be read as a result ({error}); choose another --json.") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise MobileloopError(f"{path} is no result of bench-peers ({SCHEMA}); choose another --json.")
    return validated(PeersDocument, data, f"the result {path}")


def resumed(fresh: PeersDocument, path: Path, wanted: int) -> PeersDocument:
    """`fresh` with the rounds that `path` holds already.

    A file with as many rounds as are wanted is a finished run: it is kept as NAME.previous.json and `fresh` starts.

    Raises:
        MobileloopError: where the file holds rounds of other versions, settings or another machine.
    """
    if not path.exists():
        return fresh
    old = read_peers(path)
    if len(old.rounds) >= wanted or not old.rounds:
        if old.rounds:
            path.replace(path.with_name(f"{path.stem}.previous{path.suffix}"))
        return fresh
    before, now = old.fingerprint(), fresh.fingerprint()
    changed = [name for name in now if now[name] != before[name]]
    if changed:
        raise MobileloopError(
            f"{path} holds {len(old.rounds)} rounds of a run with other {' and '.join(changed)}; they cannot be "
            "continued. Choose another --json, or start anew with --fresh."
        )
    return fresh.model_copy(update={"rounds": old.rounds, "agreement": old.agreement, "reference": old.reference})
