"""Names of Arm cores and of the chips they sit in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mobileloop_bench.machine.sysfs import CPUS, read_text

# By implementer and part number of the Main ID Register, as Linux (arch/arm64/include/asm/cputype.h) and util-linux
# (sys-utils/lscpu-arm.c) name them; cores of phones, boards and servers that run 64-bit code.
CORES = {
    0x41: {
        0xD03: "Cortex-A53",
        0xD04: "Cortex-A35",
        0xD05: "Cortex-A55",
        0xD07: "Cortex-A57",
        0xD08: "Cortex-A72",
        0xD09: "Cortex-A73",
        0xD0A: "Cortex-A75",
        0xD0B: "Cortex-A76",
        0xD0C: "Neoverse-N1",
        0xD0D: "Cortex-A77",
        0xD40: "Neoverse-V1",
        0xD41: "Cortex-A78",
        0xD44: "Cortex-X1",
        0xD46: "Cortex-A510",
        0xD47: "Cortex-A710",
        0xD48: "Cortex-X2",
        0xD49: "Neoverse-N2",
        0xD4B: "Cortex-A78C",
        0xD4C: "Cortex-X1C",
        0xD4D: "Cortex-A715",
        0xD4E: "Cortex-X3",
        0xD4F: "Neoverse-V2",
        0xD80: "Cortex-A520",
        0xD81: "Cortex-A720",
        0xD82: "Cortex-X4",
        0xD84: "Neoverse-V3",
        0xD85: "Cortex-X925",
        0xD87: "Cortex-A725",
        0xD8A: "C1-Nano",
        0xD8B: "C1-Pro",
        0xD8C: "C1-Ultra",
        0xD8E: "Neoverse-N3",
        0xD90: "C1-Premium",
    },
    0x48: {0xD01: "Kunpeng-920", 0xD40: "Cortex-A76"},
    0x51: {
        0x001: "Oryon",
        0x800: "Kryo 2xx Gold",
        0x801: "Kryo 2xx Silver",
        0x802: "Kryo 3xx Gold",
        0x803: "Kryo 3xx Silver",
        0x804: "Kryo 4xx Gold",
        0x805: "Kryo 4xx Silver",
    },
    0x53: {0x001: "Exynos M1", 0x002: "Exynos M3", 0x003: "Exynos M4", 0x004: "Exynos M5"},
    0x61: {0x022: "Icestorm M1", 0x023: "Firestorm M1", 0x032: "Blizzard M2", 0x033: "Avalanche M2"},
    0xC0: {0xAC3: "Ampere-1", 0xAC4: "Ampere-1A"},
}


def core_names(root: Path, cpuinfo: str) -> dict[int, str]:
    """What kind of core each cpu is, from its Main ID Register; a part that no table names by its number."""
    named = {}
    for cpu, (implementer, part) in _parts_of_cpuinfo(cpuinfo).items():
        named[cpu] = _name(implementer, part)
    for path in (root / CPUS).glob("cpu[0-9]*/regs/identification/midr_el1"):
        text = read_text(path)
        if text and re.fullmatch(r"0x[0-9a-fA-F]{1,16}", text):
            midr = int(text, 16)
            named[int(re.sub(r"\D", "", path.parts[-4]))] = _name(midr >> 24 & 0xFF, midr >> 4 & 0xFFF)
    return named


def _name(implementer: int | None, part: int) -> str:
    name = CORES.get(implementer, {}).get(part) if implementer is not None else None
    return name or f"part {part:#05x}" + (f" of implementer {implementer:#04x}" if implementer is not None else "")


def _parts_of_cpuinfo(cpuinfo: str) -> dict[int, tuple[int | None, int]]:
    parts = {}
    for block in re.split(r"\n\s*\n", cpuinfo):
        cpu = re.search(r"^processor\s*:\s*([0-9]{1,4})\s*$", block, re.M)
        part = re.search(r"^CPU part\s*:\s*(0x[0-9a-fA-F]{1,8})\s*$", block, re.M)
        implementer = re.search(r"^CPU implementer\s*:\s*(0x[0-9a-fA-F]{1,8})\s*$", block, re.M)
        if cpu and part:
            parts[int(cpu[1])] = (int(implementer[1], 16) if implementer else None, int(part[1], 16))
    return parts


def soc_name(root: Path, properties: Mapping[str, str]) -> str | None:
    """The chip: as Android's properties, the kernel's SoC driver or the device tree name it."""
    return soc_of_android(properties) or _soc_of_driver(root) or _soc_of_device_tree(root)


def soc_of_android(properties: Mapping[str, str]) -> str | None:
    """The chip as Android's properties name it."""
    model = properties.get("ro.soc.model") or properties.get("ro.board.platform")
    maker = properties.get("ro.soc.manufacturer", "")
    return f"{maker} {model}".strip() if model else None


def _soc_of_driver(root: Path) -> str | None:
    """Qualcomm's driver has the chip in `machine` and a number in `soc_id`, others the board and the chip."""
    folder = root / "sys/devices/soc0"
    family, machine, chip = (read_text(folder / name) for name in ("family", "machine", "soc_id"))
    named = chip if chip and not re.match(r"\d+$|jep106:", chip) else machine
    return " ".join(part for part in (family, named) if part) or None


def _soc_of_device_tree(root: Path) -> str | None:
    """The last of the compatible names is the most general one: the chip."""
    text = read_text(root / "sys/firmware/devicetree/base/compatible")
    return text.split("\0")[-1] if text else None
