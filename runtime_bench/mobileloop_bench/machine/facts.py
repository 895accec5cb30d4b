"""What is known of a machine."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt

from mobileloop_bench.machine.android import Android
from mobileloop_bench.machine.sensors import Battery


class Cache(BaseModel):
    """One cache as sysfs describes it; `instances` of this size exist, each shared by `shared_by` usable cpus.

    Attributes:
        cluster: index into the machine's clusters whose cores have it; null where several clusters share it, and in
            results from before it was told.
        ways: of a set; null where unknown.
    """

    model_config = ConfigDict(extra="allow")

    level: int = Field(ge=1)
    kind: str
    size_bytes: int = Field(gt=0)
    instances: int = Field(ge=1)
    shared_by: int = Field(ge=1)
    cluster: int | None = Field(default=None, ge=0)
    ways: int | None = Field(default=None, ge=1)


class Cluster(BaseModel):
    """Cores of one kind: phones mix several, and which ones ran decides the figure.

    Attributes:
        cores: the cpus with SMT siblings counted once.
        core: what the cores are called, such as `Cortex-X4`; several names where the kernel keeps them as one kind.
        current_mhz: of the fastest cpu at the moment of the probe.
        big: whether the engine takes them by default (docs/measuring.md).
    """

    model_config = ConfigDict(extra="allow")

    cpus: list[NonNegativeInt]
    cores: int | None = Field(default=None, ge=1)
    core: str | None = None
    min_mhz: float | None = None
    max_mhz: float | None = None
    current_mhz: float | None = None
    governor: str | None = None
    capacity: int | None = None
    big: bool | None = None


class Machine(BaseModel):
    """What a result must carry of the machine. Null means unknown.

    Attributes:
        soc: the chip; on phones it names more than `cpu` does.
        cpu_id: vendor, family, model and stepping of an x86 processor; Arm cores are named in `clusters`.
        cores_usable: cores this process may run on, SMT siblings counted.
        cpu_quota: cores' worth of time that the control groups around this process allow (docker run --cpus); null
            where nothing limits it.
        default_threads: that the engine takes.
        memory_available_bytes: what a program may still take without swapping.
        memory_type: such as `LPDDR5X-8533`; no kernel tells, so only machine files from published figures have it.
        memory_peak_gbps: width times rate of the memory. No program reads that much; it is not a measured bandwidth.
        system_cache_bytes: between the caches of the cores and the memory, shared with graphics and the rest of a
            phone's chip, which decides how much of it the cores get; no kernel tells.
        temperatures_celsius: by zone, at the moment of the probe.
        energy_source: where energy can be read from: `rapl`, `battery` or nowhere.
        emulated: True under instruction emulation, where a time says nothing about the hardware.
        git_commit: of the mobileloop that measured; `-dirty` where its files were changed.
    """

    model_config = ConfigDict(extra="allow")

    cpu: str | None = None
    cpu_id: str | None = None
    soc: str | None = None
    architecture: str | None = None
    cores_usable: int | None = None
    cores_physical: int | None = None
    cpu_quota: FiniteFloat | None = Field(default=None, gt=0)
    default_threads: int | None = Field(default=None, ge=1)
    clusters: list[Cluster] = []
    caches: list[Cache] = []
    instruction_sets: list[str] | None = None
    max_mhz: float | None = None
    current_mhz: float | None = None
    governor: str | None = None
    memory_bytes: int | None = None
    memory_available_bytes: int | None = None
    memory_type: str | None = None
    memory_peak_gbps: FiniteFloat | None = Field(default=None, gt=0)
    system_cache_bytes: int | None = Field(default=None, gt=0)
    page_bytes: int | None = Field(default=None, gt=0)
    kernel: str | None = None
    os: str | None = None
    android: Android | None = None
    temperatures_celsius: dict[str, FiniteFloat] = {}
    battery: Battery | None = None
    energy_source: str | None = None
    hypervisor: bool | None = None
    emulated: bool | None = None
    python: str | None = None
    libraries: dict[str, str] = {}
    mobileloop: str | None = None
    git_commit: str | None = None
    time: str | None = None

    def last_level_cache_bytes(self) -> int | None:
        """Size of one instance of the outermost data cache, or None where sysfs hides it."""
        data = [cache for cache in self.caches if cache.kind != "instruction"]
        return max(data, key=lambda cache: cache.level).size_bytes if data else None


def cache_bytes(machine: Machine, threads: int) -> dict[str, int]:
    """What the data caches of each level hold of a working set that so many threads share out evenly.

    The threads run on the strongest cores, and each has its part in a cache of its own or shares it with as many as the
    machine says; where clusters differ, the smallest cache decides, since all parts are alike.
    """
    used, left = set[int](), threads
    for number, cluster in enumerate(machine.clusters):
        if left > 0:
            used.add(number)
            left -= len(cluster.cpus)
    held: dict[str, int] = {}
    for cache in sorted(machine.caches, key=lambda cache: cache.level):
        if cache.kind == "instruction" or (cache.cluster is not None and used and cache.cluster not in used):
            continue
        size = cache.size_bytes * -(-threads // cache.shared_by)
        name = f"L{cache.level}"
        held[name] = min(size, held.get(name, size))
    return held
