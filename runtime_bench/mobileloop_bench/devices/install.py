"""The standalone program and artifacts on a device: pushed by content, checked on arrival, renamed into place."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mobileloop
from mobileloop.artifact import ArtifactInfo, runtime_of
from mobileloop.console import visible
from mobileloop.errors import MobileloopError
from mobileloop.runtimes.engine import read_info
from mobileloop_bench.devices.adb import Adb, AdbError, printable, quoted
from mobileloop_bench.devices.describe import FOLDER, Device, space_left

Say = Callable[[str], None]

PROGRAM = "mobileloop-engine"
ABI_OF_MACHINE = {183: "arm64-v8a", 62: "x86_64"}  # e_machine of an ELF file
BUILT = {  # where `make` leaves the program for each
    "arm64-v8a": ("build/engine-arm64", "build/engine-arm64-zig"),
    "x86_64": ("build/engine",),
}
RUN_S = 120.0  # for the program to say what it or an artifact is; an emulated one is slow


@dataclass(frozen=True)
class Payload:
    """A file and where it lies on every device: a name made of its content alone."""

    path: Path
    sha256: str
    remote: str
    size_bytes: int


@dataclass(frozen=True)
class File:
    """An artifact to be measured."""

    label: str
    payload: Payload
    info: ArtifactInfo


def payload(path: Path, suffix: str) -> Payload:
    """Hash a file.

    Raises:
        MobileloopError: where it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            digest = hashlib.sha256()
            while part := stream.read(1 << 20):
                digest.update(part)
            size = stream.tell()
    except OSError as error:
        raise MobileloopError(f"{path} cannot be read: {error.strerror}.") from None
    return Payload(path, digest.hexdigest(), f"{FOLDER}/{digest.hexdigest()[:24]}{suffix}", size)


def open_files(paths: Sequence[Path]) -> list[File]:
    """Engine artifacts, opened and hashed; labelled by name, or by path where two names are the same.

    Raises:
        MobileloopError: for a file that is no engine artifact.
    """
    unique = list(dict.fromkeys(paths))
    if not unique:
        raise MobileloopError("there is nothing to put on a device; name at least one artifact.")
    names, files = [path.name for path in unique], []
    for path in unique:
        if runtime_of(path) != "engine":
            raise MobileloopError(
                f"{path} is not an engine artifact, and {PROGRAM} runs only those; export with --to engine."
            )
        label = visible(path.name if names.count(path.name) == 1 else str(path))
        files.append(File(label, payload(path, ".safetensors"), read_info(path)))
    return files


def abi_of(program: Path) -> str:
    """The instruction set that a program was built for, as Android names it.

    Raises:
        MobileloopError: for a file that is no such program.
    """
    try:
        with program.open("rb") as stream:
            head = stream.read(20)
    except OSError as error:
        raise MobileloopError(f"{program} cannot be read: {error.strerror}; build it with make engine-arm64.") from None
    if len(head) < 20 or head[:6] != b"\x7fELF\x02\x01":
        raise MobileloopError(f"{program} is no 64-bit Linux program; build one with make engine-arm64.")
    machine = int(struct.unpack_from("<H", head, 18)[0])
    if machine not in ABI_OF_MACHINE:
        raise MobileloopError(
            f"{program} is for processors of ELF machine {machine}; build one with make engine-arm64."
        )
    return ABI_OF_MACHINE[machine]


def find_engine(device: Device, given: Path | None) -> Path:
    """The program for a device: the given one, or what `make` built here.

    Raises:
        MobileloopError: where there is none that the device can run.
    """
    if given is not None:
        abi = abi_of(given)
        if abi not in device.abis:
            runs = ", ".join(device.abis) or "an unknown instruction set"
            raise MobileloopError(f"{given} is for {abi}, but {device.serial} runs {runs}; name another with --engine.")
        return given
    roots = (Path.cwd(), Path(mobileloop.__file__).resolve().parent.parent)
    for abi in device.abis:
        found = [root / folder / PROGRAM for root in roots for folder in BUILT.get(abi, ())]
        if path := next((path for path in found if path.is_file()), None):
            return path
    target = "engine" if "x86_64" in device.abis and "arm64-v8a" not in device.abis else "engine-arm64"
    raise MobileloopError(
        f"there is no {PROGRAM} for {device.serial} ({', '.join(device.abis) or 'instruction set unknown'}); build it "
        f"with make {target}, or name it with --engine."
    )


def put(adb: Adb, one: Payload, executable: bool, say: Say) -> bool:
    """Have a file on the device; False where it was there with the right content.

    It is pushed beside its place and renamed once its checksum is right, so that a lost connection leaves no half file.

    Raises:
        AdbError: for a lost device, no space, or a checksum that differs.
    """
    name = visible(one.path.name)
    if _sha256(adb, one.remote) == one.sha256:
        return False
    adb.checked(quoted("mkdir", "-p", FOLDER), f"making {FOLDER}")
    free = space_left(adb)
    doing = f"taking {printable(name)}"
    if free is not None and free < one.size_bytes:
        raise AdbError("full", adb.serial, f"{doing} ({one.size_bytes:,} bytes, {free:,} are free)")
    say(f"pushing {name}")
    part = f"{one.remote}.part"
    try:
        adb.push(one.path, part, doing)
        arrived = _sha256(adb, part)
        if arrived != one.sha256:
            raise AdbError("checksum", adb.serial, detail=f"{printable(name)}: sha256 {arrived}, sent {one.sha256}")
    except AdbError as error:
        if error.kind in ("full", "checksum"):
            adb.shell(quoted("rm", "-f", part), "removing half a file")
        raise
    mode = "755" if executable else "644"
    adb.checked(f"{quoted('chmod', mode, part)} && {quoted('mv', '-f', part, one.remote)}", doing)
    return True


def _sha256(adb: Adb, remote: str) -> str | None:
    path = quoted(remote)
    timeout_s = RUN_S * 5
    words = adb.checked(f"if [ -f {path} ]; then sha256sum {path}; fi", "comparing files", timeout_s).split()
    return words[0] if words else None


def check_engine(adb: Adb, engine: Payload, files: Sequence[File]) -> None:
    """The program starts on the device, is of this version and reads every artifact as we do.

    Raises:
        MobileloopError: where that is not so.
    """
    doing = f"starting {PROGRAM}"
    version = adb.checked(quoted(engine.remote, "--version"), doing, RUN_S).strip()
    if version != f"{PROGRAM} {mobileloop.__version__}":
        raise MobileloopError(
            f"{engine.path} is '{printable(version)}', but this is mobileloop {mobileloop.__version__}; build it again "
            "with make engine-arm64."
        )
    for file in files:
        text = adb.checked(quoted(engine.remote, "info", file.payload.remote, "--json"), doing, RUN_S)
        try:
            told = json.loads(text)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict) or told.get("unique_bytes") != file.info.unique_bytes():
            raise MobileloopError(f"{PROGRAM} on {adb.serial} reads {file.label} differently; build it again.")


def install(adb: Adb, engine: Payload, files: Sequence[File], say: Say) -> list[str]:
    """Everything that measuring needs, on the device and checked; returns the names of the files that were pushed."""
    pushed = [visible(engine.path.name)] if put(adb, engine, True, say) else []
    pushed += [file.label for file in files if put(adb, file.payload, False, say)]
    say(f"checking {PROGRAM}")
    check_engine(adb, engine, files)
    return pushed
