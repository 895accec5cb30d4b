"""The `adb` program, checked: every call has a time limit, and every way in which it fails is one sentence.

A failure's kind decides what the caller does: one of LOST is worth waiting for, any other is the user's to mend.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mobileloop.errors import MobileloopError
from mobileloop_bench.measure.turns import Stopped

STATES = ("device", "offline", "unauthorized", "authorizing", "no permissions", "recovery", "sideload", "bootloader")
# What `adb devices -l` says of a device behind its state.
_FACT = re.compile(r"(?:usb|product|model|device|transport_id|features|devpath):")
LOST = ("vanished", "offline", "late")
QUICK_S = 30.0
PUSH_BYTES_PER_S = 1e6  # slower is taken for a hanging cable; USB 2 gives 30 times that
POLL_S = 0.1
MOST_LOSSES = 5  # a device that restarts at every try is not tried for ever
MARK = "mobileloop-exit"  # the last line of a shell command that ran to its end

INSTALL = (
    "adb was not found; install Android's platform tools (on Debian and Ubuntu: apt-get install adb) and put it on PATH"
)
SENTENCES = {
    "missing": INSTALL,
    "none": "adb sees no device; plug one in with USB debugging switched on in its developer options, and check with "
    "mobileloop device list",
    "unknown": "adb sees no device {serial}; mobileloop device list shows those it sees",
    "unauthorized": "{serial} does not trust this computer; unlock it and accept the question 'Allow USB debugging?', "
    "and where it does not ask, revoke USB debugging authorizations in its developer options and plug it in again",
    "no permissions": "this user may not open {serial} ({detail}); add a udev rule for it (on Debian and Ubuntu: "
    "apt-get install android-sdk-platform-tools-common) and plug it in again",
    "not ready": "{serial} is in the state '{detail}', but 'device' is needed; start it normally",
    "offline": "{serial} is offline while {doing}; unplug it and plug it in again, or run adb reconnect",
    "vanished": "{serial} vanished while {doing} ({detail}); plug it in again",
    "late": "{serial} did not answer within {detail} while {doing}; check its cable and screen, or run adb reconnect",
    "full": "{serial} has no space left in /data/local/tmp while {doing}; delete something there, for example with "
    "adb shell rm -r /data/local/tmp/mobileloop",
    "checksum": "what arrived on {serial} is not what was sent ({detail}); try another cable or port",
    "refused": "{serial} refused while {doing}: {detail}",
}
# What adb and the device's shell say, in the order in which it is looked for.
SYMPTOMS = (
    ("unauthorized", r"device unauthorized|device still authorizing|failed to authenticate"),
    ("no permissions", r"insufficient permissions|no permissions"),
    ("full", r"No space left on device|ENOSPC|Disk quota exceeded"),
    ("offline", r"device offline"),
    ("none", r"no devices/emulators found|no devices found"),
    (
        "vanished",
        r"device '.*' not found|error: closed|protocol fault|[Cc]onnection reset|Broken pipe|cannot connect to daemon|"
        r"device not found|transport|EOF",
    ),
)


class AdbError(MobileloopError):
    """What adb could not do.

    Attributes:
        kind: a key of SENTENCES.
    """

    def __init__(self, kind: str, serial: str = "the device", doing: str = "talking to it", detail: str = "") -> None:
        serial = printable(serial)
        super().__init__(SENTENCES[kind].format(serial=serial, doing=doing, detail=detail or "no reason given") + ".")
        self.kind = kind


@dataclass(frozen=True)
class Listed:
    """One line of `adb devices -l`."""

    serial: str
    state: str
    detail: str = ""

    def check_ready(self) -> None:
        """Raise AdbError where commands cannot be run on it."""
        if self.state in ("unauthorized", "authorizing"):
            raise AdbError("unauthorized", self.serial)
        if self.state == "offline":
            raise AdbError("offline", self.serial, "looking for it")
        if self.state == "no permissions":
            raise AdbError("no permissions", self.serial, detail=self.detail)
        if self.state != "device":
            raise AdbError("not ready", self.serial, detail=self.state)


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str


def list_devices() -> list[Listed]:
    """Everything adb sees, usable or not.

    Raises:
        AdbError: where adb is missing or does not answer.
    """
    done = _run(["devices", "-l"], QUICK_S, "the adb server", "listing devices", threading.Event())
    if done.code:
        raise _failure(done, "the adb server", "listing devices")
    _, found, listed = done.out.partition("List of devices attached")
    return [_listed(line) for line in listed.splitlines() if line.strip()] if found else []


def _listed(line: str) -> Listed:
    """One line: a serial, padded to 22 columns, a state, for some states an explanation, and facts such as `usb:1-1`.

    A serial may hold spaces and parentheses: adb takes it from the name of a service in the network, to which ` (2)` is
    added where the name is taken. So a line is read from its end: the facts, then the state.
    """
    serial, tab, rest = line.strip().partition("\t")
    if tab:
        state, detail = _state(rest.strip())
        return Listed(serial.strip(), state, detail)
    told = line.strip()
    if match := re.search(r"\s(no permissions\b.*)", told):
        return Listed(told[: match.start()].strip(), *_state(match[1]))
    words = re.split(r"(\s+)", told)
    facts = 0
    while len(words) - facts > 4 and _FACT.match(words[len(words) - 1 - facts]):
        facts += 2
    kept = words[: len(words) - facts]
    if len(kept) < 3:
        return Listed(told, "unknown")
    detail = "".join(words[len(kept) :])
    return Listed("".join(kept[:-2]).strip(), printable(kept[-1]) or "unknown", printable(detail))


def _state(text: str) -> tuple[str, str]:
    """A state and what is said of it."""
    state = next((one for one in STATES if re.match(rf"{one}\b", text)), text.split(" ")[0])
    return printable(state) or "unknown", printable(text[len(state) :])


def choose(wanted: Sequence[str] | None) -> list[str]:
    """Serials to work with: those named; `all` takes every one that is ready; nothing named takes the only one.

    Raises:
        AdbError: where one is missing or not ready.
        MobileloopError: where the choice is not clear.
    """
    seen = {one.serial: one for one in list_devices()}
    if not seen:
        raise AdbError("none")
    if wanted and "all" in wanted:
        ready = [one.serial for one in seen.values() if one.state == "device"]
        if not ready:
            next(iter(seen.values())).check_ready()
        return ready
    if not wanted:
        if len(seen) > 1:
            names = ", ".join(map(printable, seen))
            raise MobileloopError(
                f"adb sees {len(seen)} devices ({names}); choose with --device SERIAL or take --device all."
            )
        wanted = list(seen)
    for serial in dict.fromkeys(wanted):
        if serial not in seen:
            raise AdbError("unknown", printable(serial))
        seen[serial].check_ready()
    return list(dict.fromkeys(wanted))


@dataclass
class Adb:
    """adb for one device; `stop` ends whatever it is doing, with Stopped."""

    serial: str
    stop: threading.Event = field(default_factory=threading.Event)

    def shell(self, script: str, doing: str, timeout_s: float = QUICK_S) -> Done:
        """Run a script in the device's shell.

        The exit code comes with the output, because adb before Android 7 always says 0, and because its absence tells
        a lost connection from a command that failed.

        Raises:
            AdbError: where the script did not run to its end.
        """
        done = self._adb(["shell", f"(\n{script}\n)\nprintf '\\n{MARK} %d\\n' $?"], timeout_s, doing)
        out, found, code = done.out.replace("\r\n", "\n").rpartition(f"\n{MARK} ")
        if not found or not code.strip().isdigit():
            raise _failure(done, self.serial, doing)
        return Done(int(code), out, done.err)

    def checked(self, script: str, doing: str, timeout_s: float = QUICK_S) -> str:
        """The output of a script that must succeed.

        Raises:
            AdbError: where it did not.
        """
        done = self.shell(script, doing, timeout_s)
        if done.code:
            raise _failure(done, self.serial, doing, "refused")
        return done.out

    def push(self, local: Path, remote: str, doing: str) -> None:
        """Copy a file to the device; the caller checks what arrived."""
        timeout_s = QUICK_S + local.stat().st_size / PUSH_BYTES_PER_S
        done = self._adb(["push", str(local), remote], timeout_s, doing)
        if done.code:
            raise _failure(done, self.serial, doing)

    def pull(self, remote: str, local: Path, doing: str) -> None:
        """Copy a small file from the device."""
        done = self._adb(["pull", remote, str(local)], QUICK_S, doing)
        if done.code:
            raise _failure(done, self.serial, doing)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the device is there and ready; False where it did not come."""
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            try:
                if self._adb(["wait-for-device"], left, "waiting for it").code == 0 and self._ready():
                    return True
            except AdbError as error:
                if error.kind == "missing":
                    raise
            if self.stop.wait(min(1.0, max(0.0, end - time.monotonic()))):
                raise Stopped
        return False

    def _ready(self) -> bool:
        return self.shell("true", "looking for it").code == 0

    def _adb(self, words: Sequence[str], timeout_s: float, doing: str) -> Done:
        return _run(["-s", self.serial, *words], timeout_s, self.serial, doing, self.stop)


def quoted(*words: str) -> str:
    """Words as the device's shell reads them back."""
    return shlex.join(words)


def printable(text: str) -> str:
    """What a device said, fit for a terminal and for one sentence."""
    kept = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(kept.split())[:200]


def retried(adb: Adb, wait_s: float, action: Callable[[], None], lost: Callable[[AdbError], None]) -> None:
    """Do `action` again when the device was lost and came back.

    Args:
        wait_s: how long it is waited for.
        lost: told of every loss.

    Raises:
        AdbError: where it did not come back, or was lost MOST_LOSSES times in one action.
    """
    losses = 0
    while True:
        try:
            action()
        except AdbError as error:
            losses += 1
            if error.kind not in LOST or losses == MOST_LOSSES:
                raise
            lost(error)
            if not adb.wait(wait_s):
                raise
        else:
            return


def _run(words: Sequence[str], timeout_s: float, serial: str, doing: str, stop: threading.Event) -> Done:
    program = shutil.which("adb")
    if program is None:
        raise AdbError("missing")
    pipe = subprocess.PIPE
    # A session of its own: Ctrl-C is ours, and what was measured is kept before the connection closes.
    with subprocess.Popen(
        [program, *words],
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        end = time.monotonic() + timeout_s
        while True:
            try:
                out, err = process.communicate(timeout=POLL_S)
                return Done(process.returncode, out, err)
            except subprocess.TimeoutExpired:
                if not stop.is_set() and time.monotonic() < end:
                    continue
            except BaseException:
                process.kill()
                raise
            process.kill()
            process.communicate()
            if stop.is_set():
                raise Stopped
            raise AdbError("late", serial, doing, f"{timeout_s:.0f} s")


def _failure(done: Done, serial: str, doing: str, otherwise: str = "vanished") -> AdbError:
    said = f"{done.err}\n{done.out}"
    kind = next((kind for kind, pattern in SYMPTOMS if re.search(pattern, said)), None)
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
    if kind is None and otherwise == "vanished" and re.search(r"adb: error|failed to copy|remote ", said):
        kind = "refused"
    if kind == "none":  # of a device that was there
        kind = "vanished"
    return AdbError(kind or otherwise, serial, doing, printable(last).rstrip("."))
