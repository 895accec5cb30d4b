"""The machine a figure was measured on, as validated plain data; what cannot be read is null, never guessed.

Everything comes from procfs and sysfs, so the same probe runs on a server, on a single-board computer and in
a phone's shell; each of those hides other files, hence so many nulls.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

import mobileloop
from mobileloop.errors import MobileloopError
from mobileloop.runtimes.base import available_threads
from mobileloop.runtimes.topology import Topology, read_topology

# As procfs spells them, with the spelling used here; Arm and x86 share the table because no name is shared.
INSTRUCTION_SETS = {
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512vl": "avx512vl",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_int8": "amx_int8",
    "asimd": "asimd",
    "asimdhp": "asimdhp",
    "asimddp": "asimddp",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}
LIBRARIES = ("numpy", "onnxruntime", "executorch", "torch")


class Cache(BaseModel):
    """One cache as sysfs describes it; `instances` of this size exist, each shared by `shared_by` usable cores."""

    model_config = ConfigDict(extra="allow")

    level: int = Field(ge=1)
    kind: str
    size_bytes: int = Field(gt=0)
    instances: int = Field(ge=1)
    shared_by: int = Field(ge=1)


class Cluster(BaseModel):
    """Cores of one kind: phones mix several, and which ones ran decides the figure.

    `big` ones are those that the engine takes by default (docs/measuring.md); null in results from before it was told.
    """

    model_config = ConfigDict(extra="allow")

    cpus: list[int]
    max_mhz: float | None = None
    capacity: int | None = None
    big: bool | None = None


class Machine(BaseModel):
    """What a result must carry of the machine. Null means unknown.

    Attributes:
        cores_usable: cores this process may run on, SMT siblings counted.
        emulated: True under instruction emulation, where a time says nothing about the hardware.
        git_commit: of the mobileloop that measured; `-dirty` where its files were changed.
    """

    model_config = ConfigDict(extra="allow")

    cpu: str | None = None
    architecture: str | None = None
    cores_usable: int | None = None
    cores_physical: int | None = None
    clusters: list[Cluster] = []
    caches: list[Cache] = []
    instruction_sets: list[str] | None = None
    max_mhz: float | None = None
    current_mhz: float | None = None
    governor: str | None = None
    memory_bytes: int | None = None
    page_bytes: int | None = None
    kernel: str | None = None
    os: str | None = None
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


def probe(root: Path = Path("/")) -> Machine:
    """This machine, now. `root` holds `proc`, `sys` and `etc`; tests give a folder of their own."""
    cpuinfo = _read(root / "proc/cpuinfo") or ""
    sysfs = root / "sys/devices/system/cpu"
    topology = _topology(root)
    cpus = [cpu.cpu for cpu in topology.cpus]
    clusters = _clusters(topology)
    return Machine(
        cpu=_cpu_name(cpuinfo, root),
        architecture=platform.machine() or None,
        cores_usable=available_threads(),
        cores_physical=_physical_cores(topology),
        clusters=clusters,
        caches=_caches(topology),
        instruction_sets=_instruction_sets(cpuinfo),
        max_mhz=max((c.max_mhz for c in clusters if c.max_mhz is not None), default=None),
        current_mhz=max((f for cpu in cpus if (f := _mhz(sysfs, cpu, "scaling_cur_freq")) is not None), default=None),
        governor=_governor(sysfs, cpus),
        memory_bytes=_memory(root),
        page_bytes=os.sysconf("SC_PAGE_SIZE"),
        kernel=platform.release() or None,
        os=_os_name(root),
        hypervisor=_hypervisor(cpuinfo),
        emulated=_emulated(cpuinfo, platform.machine()),
        python=platform.python_version(),
        libraries=_libraries(),
        mobileloop=mobileloop.__version__,
        git_commit=_git_commit(Path(mobileloop.__file__).resolve().parent.parent),
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


# -- one reader per fact -------------------------------------------------------------------------------


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text and re.fullmatch(r"-?\d+", text) else None


def _cpu_name(cpuinfo: str, root: Path) -> str | None:
    for field in ("model name", "Hardware"):
        if match := re.search(rf"^{field}\s*:\s*(.+)$", cpuinfo, re.M):
            return match[1].strip()
    # Arm kernels name no model: the board's name, else the part numbers that identify the cores.
    board = _read(root / "sys/firmware/devicetree/base/model")
    parts = sorted(set(re.findall(r"^CPU part\s*:\s*(\S+)$", cpuinfo, re.M)))
    named = [text for text in (board and board.rstrip("\0"), parts and f"parts {', '.join(parts)}") if text]
    return "; ".join(named) or None


def _instruction_sets(cpuinfo: str) -> list[str] | None:
    match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.M)
    if not match:
        return None
    held = set(match[1].split())
    return [name for flag, name in INSTRUCTION_SETS.items() if flag in held]


def _topology(root: Path) -> Topology:
    """The engine's reading; nothing where the engine was not built."""
    try:
        return read_topology(None if root == Path("/") else root)
    except MobileloopError:
        return Topology(cpus=[], clusters=[], caches=[], default_threads=0)


def _physical_cores(topology: Topology) -> int | None:
    cores = {tuple(cpu.core) for cpu in topology.cpus}
    return len(cores) if cores and () not in cores else None


def _clusters(topology: Topology) -> list[Cluster]:
    return [
        Cluster(cpus=one.cpus, max_mhz=one.max_khz / 1000 or None, capacity=one.capacity or None, big=one.big)
        for one in topology.clusters
    ]


def _mhz(sysfs: Path, cpu: int, name: str) -> float | None:
    khz = _number(sysfs / f"cpu{cpu}/cpufreq/{name}")
    return khz / 1000 if khz else None


def _governor(sysfs: Path, cpus: list[int]) -> str | None:
    found = {_read(sysfs / f"cpu{cpu}/cpufreq/scaling_governor") for cpu in cpus} - {None}
    return ", ".join(sorted(str(name) for name in found)) or None


def _caches(topology: Topology) -> list[Cache]:
    """Caches of the usable cores, merged where level, kind, size and sharing are the same."""
    usable = {cpu.cpu for cpu in topology.cpus}
    merged: dict[tuple[int, str, int, int], int] = {}
    for cache in topology.caches:
        key = (cache.level, cache.kind, cache.size_bytes, len(usable.intersection(cache.cpus)))
        merged[key] = merged.get(key, 0) + 1
    return [
        Cache(level=level, kind=kind, size_bytes=size, instances=count, shared_by=shared_by)
        for (level, kind, size, shared_by), count in sorted(merged.items())
    ]


def _memory(root: Path) -> int | None:
    match = re.search(r"^MemTotal:\s*(\d+) kB", _read(root / "proc/meminfo") or "", re.M)
    return int(match[1]) * 1024 if match else None


def _os_name(root: Path) -> str | None:
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', _read(root / "etc/os-release") or "", re.M)
    return match[1] if match else platform.system() or None


def _hypervisor(cpuinfo: str) -> bool | None:
    match = re.search(r"^flags\s*:\s*(.+)$", cpuinfo, re.M)
    return "hypervisor" in match[1].split() if match else None  # Arm has no such flag


def _emulated(cpuinfo: str, architecture: str) -> bool | None:
    told = os.environ.get("MOBILELOOP_EMULATED")
    if told in ("0", "1"):
        return told == "1"
    if "qemu" in cpuinfo.lower():
        return True
    x86_host = bool(re.search(r"^vendor_id\s*:", cpuinfo, re.M))
    if x86_host and architecture.startswith(("aarch64", "arm")):
        return True  # user-mode emulation passes the host's procfs through
    return False if x86_host and _hypervisor(cpuinfo) is False else None


def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git_commit(folder: Path) -> str | None:
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
