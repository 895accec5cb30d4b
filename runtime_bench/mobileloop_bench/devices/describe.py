"""What a device says of itself: product, system, space, thermometers, clocks and battery."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from mobileloop.errors import MobileloopError
from mobileloop.runtimes.topology import parse_cpus
from mobileloop_bench.devices.adb import Adb, Listed, printable, quoted
from mobileloop_bench.machine.android import Android, android_build
from mobileloop_bench.machine.cores import soc_of_android
from mobileloop_bench.machine.sensors import AMBIGUOUS_CELSIUS, COLDEST_CELSIUS, HOTTEST_CELSIUS, Sensors

FOLDER = "/data/local/tmp/mobileloop"  # the one place that every Android lets its shell write and run programs
HOME = "/data/local/tmp"
MAX_ZONES = 200

_SENSORS = """
for zone in /sys/class/thermal/thermal_zone*; do
  echo "zone $(cat $zone/temp) $(cat $zone/type)"
done 2>/dev/null
for policy in /sys/devices/system/cpu/cpufreq/policy*; do
  echo "policy $(cat $policy/scaling_cur_freq) $(cat $policy/related_cpus)"
done 2>/dev/null
dumpsys battery 2>/dev/null
true
"""
_FACTS = f"""
getprop
echo "present $(cat /sys/devices/system/cpu/present 2>/dev/null)"
df -k {HOME} 2>/dev/null
"""


class Device(BaseModel):
    """One line of `mobileloop device list`. Null means unknown.

    Attributes:
        state: as adb names it; `device` is one that can be used.
        abis: instruction sets that it runs programs of, such as `arm64-v8a`.
        free_bytes: under /data/local/tmp.
        celsius: of the thermometer `zone`.
        virtual: an emulated phone of the Android SDK.
    """

    model_config = ConfigDict(extra="allow")

    serial: str
    state: str
    model: str | None = None
    soc: str | None = None
    android: str | None = None
    build: Android | None = None
    abis: list[str] = []
    cores: int | None = None
    free_bytes: int | None = None
    zone: str | None = None
    celsius: float | None = None
    battery_percent: int | None = None
    virtual: bool | None = None


def describe(adb: Adb, listed: Listed) -> Device:
    """A device's facts; only serial and state of one that is not ready.

    Raises:
        AdbError: where it vanished meanwhile.
    """
    if listed.state != "device":
        return Device(serial=listed.serial, state=listed.state)
    doing = "reading what it is"
    text, sensors = adb.shell(_FACTS, doing).out, read_sensors(adb)
    held = {name: printable(value) for name, value in re.findall(r"^\[([^\]\n]+)\]: \[(.*)\]$", text, re.M)}

    def first(*names: str) -> str | None:
        return next((held[name] for name in names if held.get(name)), None)

    watched, build = sensors.watched(), android_build(held)
    return Device(
        serial=listed.serial,
        state=listed.state,
        model=build.device if build else None,
        soc=soc_of_android(held),
        android=build.release if build else None,
        build=build,
        abis=(first("ro.product.cpu.abilist", "ro.product.cpu.abi") or "").split(",") if held else [],
        cores=_cores(text),
        free_bytes=_free_bytes(text),
        zone=watched[0] if watched else None,
        celsius=watched[1] if watched else None,
        battery_percent=sensors.battery_percent,
        virtual=first("ro.boot.qemu", "ro.kernel.qemu") == "1" if held else None,
    )


def read_sensors(adb: Adb) -> Sensors:
    """Temperatures, clocks and battery, in one call.

    Raises:
        AdbError: where the device vanished meanwhile.
    """
    return parse_sensors(adb.shell(_SENSORS, "reading its sensors").out)


def parse_sensors(text: str) -> Sensors:
    """What the sensor script printed; a malformed line is left out."""
    celsius: dict[str, float] = {}
    for value, kind in re.findall(r"^zone (-?\d{1,9}) (.+)$", text, re.M)[:MAX_ZONES]:
        degrees, name = int(value) / 1000, printable(kind)
        if COLDEST_CELSIUS < degrees < HOTTEST_CELSIUS and abs(degrees) >= AMBIGUOUS_CELSIUS:
            same = sum(zone == name or zone.startswith(f"{name} #") for zone in celsius)
            celsius[f"{name} #{same + 1}" if same else name] = degrees
    if (match := re.search(r"^\s*temperature: (-?\d{1,5})$", text, re.M)) and int(match[1]):
        celsius["battery"] = int(match[1]) / 10  # tenths, by Android's documentation
    level = re.search(r"^\s*level: (\d{1,3})$", text, re.M)
    clocks = re.findall(r"^policy (\d{4,9}) (\d{1,4})\b", text, re.M)
    return Sensors(
        celsius=celsius,
        mhz={int(cpu): int(khz) / 1000 for khz, cpu in clocks},
        battery_percent=int(level[1]) if level and int(level[1]) <= 100 else None,
    )


def by_cluster(mhz: dict[int, float], clusters: Sequence[Sequence[int]]) -> dict[int, float]:
    """Frequencies by the place of their cluster; the fastest where a cluster has several clocks."""
    found: dict[int, float] = {}
    for cpu, value in mhz.items():
        for place, cpus in enumerate(clusters):
            if cpu in cpus:
                found[place] = max(value, found.get(place, 0.0))
    return found


def space_left(adb: Adb) -> int | None:
    """Free bytes under /data/local/tmp, where the device tells."""
    return _free_bytes(adb.shell(quoted("df", "-k", HOME), "looking for space").out)


def _free_bytes(text: str) -> int | None:
    """From the table of df, whose long device names may take a line of their own."""
    match = re.search(r"^Filesystem[^\n]*Avail[^\n]*\n(.+?)\s\d+%", text, re.M | re.S)
    numbers = match[1].split()[-1:] if match else []
    return int(numbers[0]) * 1024 if numbers and numbers[0].isdigit() else None


def _cores(text: str) -> int | None:
    match = re.search(r"^present ([0-9,-]+)$", text, re.M)
    if not match:
        return None
    try:
        return len(parse_cpus(match[1]))
    except MobileloopError:
        return None
