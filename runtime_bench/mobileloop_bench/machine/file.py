"""A machine as a file: what `mobileloop machine` or `mobileloop bandwidth` wrote, or published figures of a phone.

Files of some phones and boards ship with the package, in `shipped/`; `load` finds them by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator
from typing_extensions import Self

from mobileloop.errors import MobileloopError
from mobileloop.runtimes.topology import Topology
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.machine.ladder import Gbps, Ladder
from mobileloop_bench.writing.documents import VersionedDocument

MACHINES = Path(__file__).parent / "shipped"
Microseconds = Annotated[float, Field(ge=0, le=1e9)]


class EngineCosts(BaseModel):
    """What the engine's own work costs on a machine, beside moving bytes; the model of time reads it.

    Attributes:
        kernels: the kernel set it holds for.
        compute_gbps: weight bytes of resident int4 tiles that one thread consumes per second, in 1e9 bytes.
        resident_gbps: read bandwidth of one thread from the cache that these blocks lay in.
        scheme_gbps: compute_gbps of the other schemes (`int8`, `int4-symmetric`, `none`), by name.
        region_us: one parallel region, by thread count: waking, barriers, the thread that comes last.
        application_us: one application of a block beside its weights, by thread count: barriers, norms, activations.
        token_us: one call for one token, beside its stages and its head.
        attention_ns: one query head over one cached position, per 64 dimensions of the head, float16, on one thread.
        kv_page_us: bringing one page of KV cache that no private cache holds, on one thread: the slots of a deep model
            are many short pieces, each with an address to translate.
        overlap: share of the smaller of memory and arithmetic time that is hidden behind the larger; 1 is all of it.
        reread_misses: share of a block beyond the private caches that its second application still reads from where
            the first one did: caches that take what leaves a smaller one do not keep all of what was read once.
        estimated: True where it was derived (instruction counts, a like machine) and not measured there.
    """

    model_config = ConfigDict(extra="allow")

    kernels: str | None = None
    compute_gbps: Gbps | None = None
    resident_gbps: Gbps | None = None
    scheme_gbps: dict[str, Gbps] = {}
    region_us: dict[int, Microseconds] = {}
    application_us: dict[int, Microseconds] = {}
    token_us: Microseconds | None = None
    attention_ns: float | None = Field(default=None, ge=0, le=1e9)
    kv_page_us: Microseconds | None = None
    overlap: FiniteFloat | None = Field(default=None, ge=0, le=1)
    reread_misses: FiniteFloat | None = Field(default=None, ge=0, le=1)
    estimated: bool = False


class MachineFile(VersionedDocument):
    """A machine with its bandwidth ladder and the costs of the engine on it, each null where unknown.

    Attributes:
        topology: every usable cpu and cache one by one, as the engine reads them; null in published figures.
        sources: where a published value is from, by its path in this document (`ladder.steps.2.read_gbps`). The
            source of a path holds for all below it that have none of their own. A measured file has none.
    """

    NAME: ClassVar[str] = "mobileloop.machine"
    VERSION: ClassVar[int] = 1
    ORIGIN: ClassVar[str] = "mobileloop machine --json or mobileloop bandwidth --json"

    name: str
    machine: Machine
    topology: Topology | None = None
    ladder: Ladder | None = None
    costs: EngineCosts | None = None
    sources: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _clusters_exist(self) -> Self:
        count, ladder = len(self.machine.clusters), self.ladder or Ladder()
        named = {"machine.caches": [cache.cluster for cache in self.machine.caches]}
        for name in ("rungs", "latencies", "steps"):
            named[f"ladder.{name}"] = [entry.cluster for entry in getattr(ladder, name)]
        for path, clusters in named.items():
            for index, cluster in enumerate(clusters):
                if cluster is not None and not 0 <= cluster < count:
                    raise ValueError(f"{path}.{index} is of cluster {cluster}, but the machine has {count}")
        return self

    def source(self, path: str) -> str | None:
        """Where the value at a path is from; None in a file that was measured."""
        while path not in self.sources and "." in path:
            path = path.rpartition(".")[0]
        return self.sources.get(path)


def shipped() -> list[str]:
    """Names of the machine files that came with the package."""
    return sorted(path.stem for path in MACHINES.glob("*.json"))


def load(machine: str | Path) -> MachineFile:
    """A machine file by its path, or a shipped one by its name.

    Raises:
        MobileloopError: for a name that is neither, or a file that is no machine file.
    """
    if str(machine) in shipped():
        return MachineFile.read(MACHINES / f"{machine}.json")
    path = Path(machine)
    if not str(machine) or (not path.exists() and path.suffix != ".json"):
        raise MobileloopError(
            f"there is no machine '{machine}'; name a file of mobileloop machine --json, "
            f"or one of {', '.join(shipped())}."
        )
    return MachineFile.read(path)
