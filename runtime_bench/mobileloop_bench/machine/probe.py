"""The machine a figure was measured on, as validated plain data; what cannot be read is null, never guessed.

The engine reads procfs and sysfs, so the same probe runs on a server, on a single-board computer and in a phone's
shell; each of those hides other files, hence so many nulls. Added here is what only Python knows: names of Arm cores
and chips, Android's properties, sensors, and the versions of what measured.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import mobileloop
from mobileloop.errors import MobileloopError
from mobileloop.runtimes import native
from mobileloop.runtimes.topology import Topology, read_topology
from mobileloop_bench.machine.android import android_build, read_properties
from mobileloop_bench.machine.cores import core_names, soc_name
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.machine.sensors import EnergyMeter, read_battery, read_temperatures
from mobileloop_bench.machine.sysfs import ROOT, read_text

LIBRARIES = ("numpy", "onnxruntime", "executorch", "torch")


def probe(root: Path = ROOT) -> Machine:
    """This machine, now. `root` holds `proc`, `sys` and `etc`; tests give a folder of their own."""
    told = _told_by_the_engine(root)
    properties = read_properties(root)
    names = core_names(root, read_text(root / "proc/cpuinfo") or "")
    board = [told.pop("board", None), ", ".join(sorted(set(names.values())))]
    for cluster in told.get("clusters", []):
        cluster["core"] = ", ".join(sorted({names[cpu] for cpu in cluster["cpus"] if cpu in names})) or None
    if properties.get("ro.boot.qemu") == "1":
        told["hypervisor"] = True
    added = {
        "cpu": told.pop("cpu_model", None) or "; ".join(text for text in board if text) or None,
        "soc": soc_name(root, properties),
        "android": android_build(properties),
        "temperatures_celsius": read_temperatures(root),
        "battery": read_battery(root),
        "energy_source": EnergyMeter(root).source,
        "python": platform.python_version(),
        "libraries": _libraries(),
        "mobileloop": mobileloop.__version__,
        "git_commit": _git_commit(Path(mobileloop.__file__).resolve().parent.parent),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    return Machine.model_validate({**told, **added})


def _told_by_the_engine(root: Path) -> dict[str, Any]:
    """Nothing where the engine was not built."""
    try:
        told: dict[str, Any] = json.loads(native.machine_json(None if root == ROOT else root))
    except MobileloopError:
        return {}
    told.pop("kernels")  # a matter of the session, which says it itself
    return told


def usable_topology(root: Path = ROOT) -> Topology:
    """The engine's reading; nothing where the engine was not built."""
    try:
        return read_topology(None if root == ROOT else root)
    except MobileloopError:
        return Topology(cpus=[], clusters=[], caches=[], default_threads=0)


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
