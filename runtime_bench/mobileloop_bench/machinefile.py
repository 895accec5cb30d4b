"""A machine as a file: what `mobileloop machine` or `mobileloop bandwidth` wrote, or published figures of a phone."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from mobileloop_bench.documents import VersionedDocument
from mobileloop_bench.ladder import Ladder
from mobileloop_bench.machine import Machine


class EngineCosts(BaseModel):
    """What the engine's own work costs on a machine, beside moving bytes; the model of time reads it.

    Attributes:
        kernels: the kernel set it holds for.
        compute_gbps: weight bytes of resident int4 tiles that one thread consumes per second, in 1e9 bytes.
        region_us: one parallel region, by thread count: waking, barriers, the thread that comes last.
        estimated: True where it was derived (instruction counts, a like machine) and not measured there.
    """

    model_config = ConfigDict(extra="allow")

    kernels: str | None = None
    compute_gbps: FiniteFloat | None = Field(default=None, gt=0)
    region_us: dict[int, FiniteFloat] = {}
    estimated: bool = False


class MachineFile(VersionedDocument):
    """A machine with its bandwidth ladder and the costs of the engine on it, each null where unknown.

    `sources` says where a published value is from, by its path in this document (`ladder.steps.2.read_gbps`); a
    measured file has none.
    """

    NAME: ClassVar[str] = "mobileloop.machine"
    VERSION: ClassVar[int] = 1
    ORIGIN: ClassVar[str] = "mobileloop machine --json or mobileloop bandwidth --json"

    name: str
    machine: Machine
    ladder: Ladder | None = None
    costs: EngineCosts | None = None
    sources: dict[str, str] = Field(default_factory=dict)
