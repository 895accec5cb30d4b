"""What changes while a machine works: clocks, temperatures, the battery and the energy taken.

Everything is read from files that Linux and Android share. Vendors fill some of them in units of their own, so a value
that its documented unit makes absurd is unknown, not converted by a guess.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mobileloop.errors import MobileloopError
from mobileloop.runtimes.topology import read_topology
from mobileloop_bench.machine.sysfs import CPUS, ROOT, read_number, read_text

MAX_KHZ = 10_000_000
# Millidegrees by the kernel's documentation. Zones that are switched off say 0 or -40000, and some vendors write whole
# degrees: what lies within a degree of zero could be either, so it is not taken.
COLDEST_CELSIUS, HOTTEST_CELSIUS, AMBIGUOUS_CELSIUS = -39.0, 150.0, 1.0
# Microamperes and microvolts by the kernel's documentation; some phones write milliamperes, and none works on 10 mA.
LEAST_MICROAMPERES, MOST_MICROAMPERES = 10_000, 50_000_000
LEAST_MICROVOLTS, MOST_MICROVOLTS = 2_500_000, 60_000_000
LONGEST_GAP_S = 5.0


def read_frequencies(root: Path = ROOT, clusters: Sequence[Sequence[int]] | None = None) -> dict[int, float]:
    """Current MHz by cluster, the place in the machine's clusters; of its cpus the fastest one's.

    Args:
        root: holds `sys` and `proc`.
        clusters: cpus of each, so that a caller that reads often need not look for them again.
    """
    found = {}
    for index, cpus in enumerate(cluster_cpus(root) if clusters is None else clusters):
        known = [mhz for cpu in cpus if (mhz := read_mhz(root, cpu, "scaling_cur_freq")) is not None]
        if known:
            found[index] = max(known)
    return found


def cluster_cpus(root: Path = ROOT) -> list[list[int]]:
    """The cpus of each cluster, in the machine's order; nothing where the engine was not built."""
    try:
        return [one.cpus for one in read_topology(None if root == ROOT else root).clusters]
    except MobileloopError:
        return []


def read_mhz(root: Path, cpu: int, name: str) -> float | None:
    """One file of a cpu's cpufreq folder, which holds kHz."""
    khz = read_number(root / CPUS / f"cpu{cpu}/cpufreq/{name}")
    return khz / 1000 if khz is not None and 0 < khz < MAX_KHZ else None


def read_temperatures(root: Path = ROOT) -> dict[str, float]:
    """Degrees Celsius by zone; a type of which there are several carries the zone's number."""
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"), key=_number_in_name)
    types = [read_text(zone / "type") or zone.name for zone in zones]
    several = Counter(types)
    found = {}
    for zone, kind in zip(zones, types, strict=True):
        celsius = (read_number(zone / "temp") or 0) / 1000
        if COLDEST_CELSIUS < celsius < HOTTEST_CELSIUS and abs(celsius) >= AMBIGUOUS_CELSIUS:
            found[kind if several[kind] == 1 else f"{kind} {_number_in_name(zone)}"] = celsius
    return found


class Battery(BaseModel):
    """What the battery says. Null means unknown.

    Attributes:
        status: `Discharging`, `Charging`, `Full`, ... as the kernel writes it.
        current_ma: amount without its sign, which vendors disagree about; `status` has the direction.
    """

    model_config = ConfigDict(extra="allow")

    level_percent: int | None = None
    status: str | None = None
    current_ma: float | None = None
    voltage_v: float | None = None

    @property
    def drawn_w(self) -> float | None:
        """Watts taken from it now; None while it charges and where it does not tell."""
        if self.status != "Discharging" or self.current_ma is None or self.voltage_v is None:
            return None
        return self.current_ma * self.voltage_v / 1000


def read_battery(root: Path = ROOT) -> Battery | None:
    """The machine's own battery, or None where there is none; those of mice and pens are not it."""
    for supply in sorted((root / "sys/class/power_supply").glob("*")):
        if read_text(supply / "type") != "Battery" or read_text(supply / "scope") == "Device":
            continue
        level = read_number(supply / "capacity")
        microamperes = abs(read_number(supply / "current_now") or 0)
        microvolts = read_number(supply / "voltage_now") or 0
        return Battery(
            level_percent=level if level is not None and 0 <= level <= 100 else None,
            status=read_text(supply / "status"),
            current_ma=microamperes / 1e3 if LEAST_MICROAMPERES <= microamperes <= MOST_MICROAMPERES else None,
            voltage_v=microvolts / 1e6 if LEAST_MICROVOLTS <= microvolts <= MOST_MICROVOLTS else None,
        )
    return None


class EnergyMeter:
    """Joules taken since the meter was made: by the processor and its memory (RAPL), or by the whole device (battery).

    RAPL counters wrap around after minutes of full load, and a battery tells only the power of the moment, so
    `joules()` must be called every now and then: at least every `LONGEST_GAP_S` seconds where `source` is `battery`.

    Attributes:
        source: `rapl`, `battery`, or None where neither can be read. RAPL is usually for root alone.
    """

    def __init__(self, root: Path = ROOT, clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._clock = root, clock
        self._counters = _rapl_counters(root)
        self._sum_j: float | None = 0.0
        self._time_s, self._drawn_w = clock(), None if self._counters else _drawn_w(root)
        self.source = "rapl" if self._counters else "battery" if self._drawn_w is not None else None

    def joules(self) -> float | None:
        """Since the start; None where there is no source, and from the moment on when it failed.

        The battery fails where it is charged meanwhile, or where it was not asked for `LONGEST_GAP_S`.
        """
        if self.source is None or self._sum_j is None:
            return None
        added = self._rapl_added_j() if self._counters else self._battery_added_j()
        self._sum_j = None if added is None else self._sum_j + added
        return self._sum_j

    def _rapl_added_j(self) -> float | None:
        added = [counter.added_j() for counter in self._counters]
        known = [one for one in added if one is not None]
        return sum(known) if len(known) == len(added) else None

    def _battery_added_j(self) -> float | None:
        now_s, now_w, before_w = self._clock(), _drawn_w(self._root), self._drawn_w
        passed_s = now_s - self._time_s
        self._time_s, self._drawn_w = now_s, now_w
        if now_w is None or before_w is None or passed_s > LONGEST_GAP_S:
            return None
        return passed_s * (before_w + now_w) / 2


@dataclass
class _Counter:
    """An energy counter in microjoules that starts again from 0 at `wraps_uj`."""

    path: Path
    last_uj: int
    wraps_uj: int | None

    def added_j(self) -> float | None:
        """Since it was last asked."""
        now_uj = read_number(self.path)
        if now_uj is None:
            return None
        added_uj = now_uj - self.last_uj
        if added_uj < 0:
            if self.wraps_uj is None:
                return None
            added_uj += self.wraps_uj
        self.last_uj = now_uj
        return added_uj / 1e6 if added_uj >= 0 else None


def _rapl_counters(root: Path) -> list[_Counter]:
    """Packages and memory; their other parts (core, uncore) are in the package, and psys is all of it again."""
    counters = []
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        if re.fullmatch(r"package-\d+(-die-\d+)?|dram", read_text(zone / "name") or ""):
            value = read_number(zone / "energy_uj")
            if value is not None:
                counters.append(_Counter(zone / "energy_uj", value, read_number(zone / "max_energy_range_uj")))
    return counters


def _drawn_w(root: Path) -> float | None:
    battery = read_battery(root)
    return battery.drawn_w if battery else None


def _number_in_name(path: Path) -> int:
    match = re.search(r"[0-9]{1,9}$", path.name)
    return int(match[0]) if match else -1


# Where a device has several thermometers, the first kind that it has decides; of a kind, the hottest. Phones slow down
# by the temperature of their skin; the battery's is near to it; a processor's jumps with every load.
THERMOMETERS = (
    ("skin", re.compile(r"skin|quiet", re.I)),
    ("battery", re.compile(r"^batt", re.I)),
    ("cpu", re.compile(r"cpu|soc|tsens|^(BIG|MID|LITTLE)$", re.I)),
)


class Sensors(BaseModel):
    """The device at one moment; what it hides is left out.

    Attributes:
        celsius: by thermal zone; `battery` is the battery's own.
        mhz: current frequency by the first cpu of each policy (cores that share a clock).
    """

    model_config = ConfigDict(extra="allow")

    celsius: dict[str, float] = {}
    mhz: dict[int, float] = {}
    battery_percent: int | None = None

    def watched(self) -> tuple[str, float] | None:
        """The thermometer that is waited for: (its zone, degrees)."""
        for _, pattern in THERMOMETERS:
            found = [(value, zone) for zone, value in self.celsius.items() if pattern.search(zone)]
            if found:
                value, zone = max(found)
                return zone, value
        return None
