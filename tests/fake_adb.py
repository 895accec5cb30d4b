"""A stand-in for the `adb` program: devices are folders, and their shell is this machine's.

FAKE_ADB_ROOT/SERIAL/device.json describes a device (`make_device` writes it), fs/ stands for its root: a path under
/data/local/tmp or /sys in a command means one there. A 64-bit ARM program on the device runs under QEMU where `qemu`
names it. Faults are scripted: the n-th shell, push or pull of a device finds it gone, and how.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import sys
import time
from pathlib import Path

# Tests start this program some thousand times, and importing subprocess and shutil would take half of its time.

HELD = ("/data/local/tmp", "/sys/class", "/sys/devices")
BATTERY = (
    "Current Battery Service state:\n  USB powered: true\n  level: {level}\n  scale: 100\n  temperature: {tenths}\n"
)
DF = "Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/block/dm-47 113000000 64000000 {free} 57% /data\n"
GONE = "adb: device '{}' not found"
REFUSED = "adb: error: failed to copy '{}' to '{}': "


def make_device(root, serial, **changes):
    """A phone with two clusters, a skin and a battery thermometer; returns its folder.

    Keys of `changes`: state, detail, properties, qemu, free_kb, celsius (of the battery, at each reading; the last
    stays), slow_s, corrupt (pushes to damage), full (pushes fail), faults ([{at, how, returns}]).
    """
    folder = Path(root) / serial
    tree = {
        "sys/devices/system/cpu/present": "0-7",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1800000",
        "sys/devices/system/cpu/cpufreq/policy0/related_cpus": "0 1 2 3",
        "sys/class/thermal/thermal_zone0/type": "cpu-0-0",
        "sys/class/thermal/thermal_zone0/temp": "48500",
        "sys/class/thermal/thermal_zone1/type": "modem",
        "sys/class/thermal/thermal_zone1/temp": "-40000",
    }
    for name, text in tree.items():
        path = folder / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (folder / "fs/data/local/tmp").mkdir(parents=True, exist_ok=True)
    facts = {
        "state": "device",
        "detail": "",
        "properties": {
            "ro.product.manufacturer": "Acme",
            "ro.product.model": "Phone 9",
            "ro.soc.model": "SM9999",
            "ro.build.version.release": "15",
            "ro.build.fingerprint": "acme/phone9/phone9:15/X/1:user/release-keys",
            "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a",
        },
        "qemu": None,
        "free_kb": 9_000_000,
        "celsius": [31.5],
        "slow_s": 0,
        "corrupt": 0,
        "full": False,
        "faults": [],
        "commands": 0,
        "readings": 0,
        "away": None,
    }
    (folder / "device.json").write_text(json.dumps({**facts, **changes}))
    return folder


@contextlib.contextmanager
def facts_of(folder):
    """A device's facts, written back at the end; one command at a time looks at them."""
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        facts = json.loads((folder / "device.json").read_text())
        yield facts
        written = folder / "device.new"
        written.write_text(json.dumps(facts))
        written.replace(folder / "device.json")  # whole, whenever adb is killed


def fail(message, code=1):
    print(message, file=sys.stderr)
    raise SystemExit(code)


def devices(root):
    print("List of devices attached")
    for folder in sorted(root.iterdir()):
        with facts_of(folder) as facts:
            if facts["away"] is None:
                more = f"{facts['detail']} usb:1-1" if facts["state"] != "device" else "usb:1-1 product:p model:m"
                print(f"{folder.name:<22} {facts['state']} {more} transport_id:1")
    print()


def wait(folder):
    while True:
        with facts_of(folder) as facts:
            if facts["away"] == "returns":
                facts["away"] = None
            if facts["away"] is None and facts["state"] == "device":
                return
        time.sleep(0.05)


def inside(folder, text):
    """A script or path of the device as one of this machine."""
    return re.sub("|".join(map(re.escape, HELD)), lambda found: f"{plain(folder)}{found[0]}", text)


def plain(folder):
    """The device's root by a name that needs no quotes in a script, whatever the serial is."""
    name = folder.parent.parent / f"fs-{folder.name.encode().hex()}"
    with contextlib.suppress(FileExistsError):
        name.symlink_to(folder / "fs")
    return name


def is_arm(path):
    with open(path, "rb") as stream:
        head = stream.read(20)
    return head[:4] == b"\x7fELF" and head[18:20] == b"\xb7\x00"


def prelude(folder, facts):
    """Shell functions for what only Android has, and for ARM programs."""
    properties = "".join(f"[{name}]: [{value}]\n" for name, value in facts["properties"].items())
    celsius = facts["celsius"][min(facts["readings"], len(facts["celsius"]) - 1)]
    battery = BATTERY.format(level=80, tenths=round(celsius * 10))
    texts = {"getprop": properties, "dumpsys": battery, "df": DF.format(free=facts["free_kb"])}
    lines = [f"{name}() {{ printf %s {shlex.quote(text)}; }}" for name, text in texts.items()]
    for path in (plain(folder) / "data/local/tmp").rglob("*"):
        if facts["qemu"] and path.is_file() and is_arm(path):
            lines.append(f'function {path} {{ {shlex.quote(facts["qemu"])} {shlex.quote(str(path))} "$@"; }}')
    return "\n".join(lines)


def shell(folder, facts, script, unwatched=False, unheard=False):
    """Run it; `unwatched` does not wait for its end, as when the cable is pulled, `unheard` loses its output."""
    command = ["bash", "--norc", "-c", f"{prelude(folder, facts)}\n{inside(folder, script)}"]
    silent = [0, 1, 2] if unwatched else [0, 1] if unheard else [0]
    null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in silent]
    child = os.posix_spawnp(command[0], command, os.environ, file_actions=null, setsid=unwatched)
    return 0 if unwatched else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def push(folder, facts, local, remote):
    target = Path(inside(folder, remote))
    if not target.parent.is_dir():
        fail(REFUSED.format(local, remote) + "remote couldn't create file: No such file or directory")
    target.write_bytes(Path(local).read_bytes())
    if facts["full"]:
        os.truncate(target, 10)
        fail(REFUSED.format(local, remote) + "remote write failed: No space left on device")
    if facts["corrupt"]:
        with open(target, "r+b") as stream:
            stream.write(b"x")
    print(f"{local}: 1 file pushed, 0 skipped.")


def pull(folder, remote, local):
    source = Path(inside(folder, remote))
    if not source.is_file():
        fail(f"adb: error: failed to stat remote object '{remote}': No such file or directory")
    Path(local).write_bytes(source.read_bytes())
    print(f"{remote}: 1 file pulled, 0 skipped.")


def reach(folder, serial, words):
    """(facts, fault) of a command to a device, which the fault takes away; fails where it is not to be reached."""
    if not folder.is_dir():
        fail(GONE.format(serial))
    with facts_of(folder) as facts:
        if facts["away"]:
            fail(GONE.format(serial))
        if facts["state"] == "unauthorized":
            fail("adb: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set\nTry 'adb kill-server'")
        if facts["state"] != "device":
            fail(f"adb: device {facts['state']}")
        facts["commands"] += 1
        fault = next((one for one in facts["faults"] if one["at"] == facts["commands"]), None)
        if fault:
            facts["away"] = "returns" if fault["returns"] else "gone"
        before = dict(facts)
        if "dumpsys" in " ".join(words):
            facts["readings"] += 1
        facts["corrupt"] = max(0, facts["corrupt"] - (words[0] == "push"))
    with open(folder / "log", "a") as log:
        log.write(json.dumps(words) + "\n")
    return before, fault


def main(words):
    root = Path(os.environ["FAKE_ADB_ROOT"])
    if words[:1] == ["devices"]:
        return devices(root)
    if words[:1] != ["-s"]:
        fail("adb: this stand-in wants -s SERIAL")
    serial, words = words[1], words[2:]
    folder = root / serial
    if words == ["wait-for-device"]:
        return wait(folder)
    facts, fault = reach(folder, serial, words)
    time.sleep(facts["slow_s"])
    how = fault["how"] if fault else None
    if how == "before":
        fail(GONE.format(serial))
    if how == "unwatched":
        if words[0] == "shell":
            shell(folder, facts, words[1], unwatched=True)
        fail("error: closed")
    if words[0] == "shell":
        if how == "after":
            shell(folder, facts, words[1], unheard=True)
            fail("error: closed")
        raise SystemExit(shell(folder, facts, words[1]))
    if words[0] == "push":
        push(folder, facts, *words[1:])
    else:
        pull(folder, *words[1:])
    if how == "after":
        fail("adb: error: failed to read copy response: EOF")
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
