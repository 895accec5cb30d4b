"""A machine as a file: what `mobileloop machine` or `mobileloop bandwidth` wrote, or published figures of a phone."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from mobileloop_bench.documents import VersionedDocument
from mobileloop_bench.ladder import Ladder
from mobileloop_bench.machine import Machine


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
        overlap: share of the smaller of memory and arithmetic time that is hidden behind the larger; 1 is all of it.
        reread_misses: share of a block beyond the private caches that its second application still reads from where
            the first one did: caches that take what leaves a smaller one do not keep all of what was read once.
        estimated: True where it was derived (instruction counts, a like machine) and not measured there.
    """

    model_config = ConfigDict(extra="allow")

    kernels: str | None = None
    compute_gbps: FiniteFloat | None = Field(default=None, gt=0)
    resident_gbps: FiniteFloat | None = Field(default=None, gt=0)
    scheme_gbps: dict[str, Annotated[FiniteFloat, Field(gt=0)]] = {}
    region_us: dict[int, FiniteFloat] = {}
    application_us: dict[int, FiniteFloat] = {}
    token_us: FiniteFloat | None = Field(default=None, ge=0)
    attention_ns: FiniteFloat | None = Field(default=None, ge=0)
    overlap: FiniteFloat | None = Field(default=None, ge=0, le=1)
    reread_misses: FiniteFloat | None = Field(default=None, ge=0, le=1)
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
