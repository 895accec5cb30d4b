"""What the kernel says of the processor in /proc/cpuinfo and beside it: name, instruction sets, virtual or emulated."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from mobileloop_bench.machine.sysfs import read_text

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


def cpu_name(cpuinfo: str, root: Path, names: Mapping[int, str]) -> str | None:
    """The processor's name; of Arm ones the board and the kinds of cores, since their kernels name no model."""
    for field in ("model name", "Hardware"):
        if match := re.search(rf"^{field}\s*:\s*(.+)$", cpuinfo, re.M):
            return match[1].strip()
    board = read_text(root / "sys/firmware/devicetree/base/model")
    cores = ", ".join(sorted(set(names.values())))
    return "; ".join(text for text in (board, cores) if text) or None


def cpu_id(cpuinfo: str) -> str | None:
    """Vendor, family, model and stepping of an x86 processor."""
    found = [
        re.search(rf"^{field}\s*:\s*(\S+)$", cpuinfo, re.M)
        for field in ("vendor_id", "cpu family", "model", "stepping")
    ]
    told = [match[1] for match in found if match]
    return "{} family {} model {} stepping {}".format(*told) if len(told) == len(found) else None


def instruction_sets(cpuinfo: str) -> list[str] | None:
    """Those that matter to the kernels; None where the kernel does not list any."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.M)
    if not match:
        return None
    held = set(match[1].split())
    return [name for flag, name in INSTRUCTION_SETS.items() if flag in held]


def hypervisor(cpuinfo: str, root: Path, properties: Mapping[str, str]) -> bool | None:
    """Whether this is a virtual machine; None where it cannot be told."""
    flagged = _hypervisor_flag(cpuinfo)
    if flagged is not None:
        return flagged
    # Arm has no such flag, and only a virtual machine says what it is.
    if read_text(root / "sys/hypervisor/type") or properties.get("ro.boot.qemu") == "1":
        return True
    maker = " ".join(read_text(root / "sys/class/dmi/id" / name) or "" for name in ("sys_vendor", "product_name"))
    return True if re.search("QEMU|KVM|VMware|Virtual|Xen|HVM", maker) else None


def emulated(cpuinfo: str, architecture: str) -> bool | None:
    """Whether another instruction set is emulated; MOBILELOOP_EMULATED (0 or 1) settles it."""
    told = os.environ.get("MOBILELOOP_EMULATED")
    if told in ("0", "1"):
        return told == "1"
    if "qemu" in cpuinfo.lower():
        return True
    x86_host = bool(re.search(r"^vendor_id\s*:", cpuinfo, re.M))
    if x86_host and architecture.startswith(("aarch64", "arm")):
        return True  # user-mode emulation passes the host's procfs through
    return False if x86_host and _hypervisor_flag(cpuinfo) is False else None


def _hypervisor_flag(cpuinfo: str) -> bool | None:
    match = re.search(r"^flags\s*:\s*(.+)$", cpuinfo, re.M)
    return "hypervisor" in match[1].split() if match else None
