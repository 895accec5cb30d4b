"""Measuring on a device in interleaved rounds that the host drives: one process there per turn, its result pulled at
once, kept in a journal, and the whole document written anew, so that nothing measured is lost with device or host.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobileloop import __version__
from mobileloop.errors import MobileloopError
from mobileloop.runtimes.topology import write_cpus
from mobileloop_bench.devices.adb import Adb, AdbError, Listed, quoted, retried
from mobileloop_bench.devices.assemble import assemble, check_turn, check_turns, order_of_turns
from mobileloop_bench.devices.describe import FOLDER, Device, describe, read_sensors
from mobileloop_bench.devices.install import File, Payload, find_engine, install, payload
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.machine.sensors import Sensors
from mobileloop_bench.measure.journal import Journal, Taken
from mobileloop_bench.measure.plan import Artifact, Configuration, Plan, make_plan
from mobileloop_bench.measure.turns import Rounds, Stopped, Turn
from mobileloop_bench.results.document import Document
from mobileloop_bench.results.settings import Settings

Progress = Callable[[str, int, int, str], None]  # serial, turns done, turns in all, what happens

TURN_S = 1800.0  # an emulated turn of a real model takes minutes
POLL_S = 5.0  # between two looks at a thermometer, or at a turn that goes on by itself


@dataclass(frozen=True)
class Order:
    """What to measure on every device.

    Attributes:
        settings: as of `mobileloop bench`; `threads` empty means 1 and all big cores of the device.
        max_celsius: a turn begins at or below it, or `cooldown_s` later and flagged.
        wait_s: how long a device that vanished is waited for.
    """

    files: Sequence[File]
    settings: Settings
    engine: Path | None = None
    max_celsius: float | None = None
    cooldown_s: float = 300.0
    wait_s: float = 600.0
    with_bandwidth: bool = True
    command: str | None = None

    def artifacts(self) -> list[Artifact]:
        """The files as the plan takes them."""
        return [
            Artifact(one.label, one.payload.path, "engine", one.info, {}, one.payload.size_bytes) for one in self.files
        ]

    def check(self) -> None:
        """Raise MobileloopError, before anything is pushed, where nothing could be measured."""
        make_plan(self.artifacts(), self.settings.model_copy(update={"threads": self.settings.threads or [1]}))


@dataclass
class Outcome:
    """What became of one device."""

    serial: str
    document: Document | None = None
    error: MobileloopError | None = None


def measure_devices(serials: Sequence[str], order: Order, outs: dict[str, Path], progress: Progress) -> list[Outcome]:
    """Measure on several devices at once, one thread each. Ctrl-C ends all of them and keeps what was measured."""
    stop = threading.Event()
    runs = [Run(Adb(serial, stop), order, outs.get(serial), progress) for serial in serials]
    threads = [threading.Thread(target=run.go, name=run.adb.serial) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join(0.2)
            except KeyboardInterrupt:
                stop.set()
    for run in runs:
        if run.crash is not None:
            raise run.crash
    return [run.outcome for run in runs]


@dataclass
class Run:
    """The turns of one device; `go` never raises."""

    adb: Adb
    order: Order
    out: Path | None
    progress: Progress
    outcome: Outcome = field(init=False)
    crash: BaseException | None = None
    losses: int = 0

    def __post_init__(self) -> None:
        self.outcome = Outcome(self.adb.serial)

    def go(self) -> None:
        """Measure; what came of it is in `outcome`."""
        try:
            self._go()
        except Stopped:
            pass
        except MobileloopError as error:
            self.outcome.error = error
        except BaseException as error:
            self.crash = error
            self.adb.stop.set()

    def _go(self) -> None:
        self._say("looking")
        self.device: Device = self._kept(lambda: describe(self.adb, Listed(self.adb.serial, "device")))
        self._check_thermometer(self._kept(lambda: read_sensors(self.adb)))
        self.engine: Payload = payload(find_engine(self.device, self.order.engine), "")
        self._kept(lambda: install(self.adb, self.engine, self.order.files, self._say))
        journal = Journal(None if self.out is None else self.out.with_name(f"{self.out.name}.turns"), self._key())
        self.journal, finished = journal, False
        try:
            self._measure()
            finished = True
        finally:
            journal.close(finished)

    def _measure(self) -> None:
        self._folder = f"{FOLDER}/run-{self.journal.header.id}"
        probe = self._kept(self._probe)
        self.machine = self._described(probe.machine)
        self.plan = self._plan()
        turns = self.turns = order_of_turns(self.plan, self.order.with_bandwidth)
        check_turns(self.journal.turns, turns, self.order.settings, self.adb.serial)

        def take(turn: Turn) -> None:
            self._kept(lambda: self._turn(turn.number, *turns[turn.number]))
            self._publish()

        rounds = Rounds(len(self.plan.configurations), self.plan.settings)
        try:
            ended = rounds.run(
                take,
                lambda turn: str(turns[turn.number][0]),
                done=self.journal.turns,
                progress=lambda done, total, what: self._say(what, done, total),
            )
        except MobileloopError:
            self._publish()
            raise
        self._publish()
        if ended.interrupted:
            raise Stopped
        with suppress(AdbError):  # the result is complete, and what stays there is small
            self.adb.shell(quoted("rm", "-rf", self._folder), "removing what was pulled")

    # -- one turn ----------------------------------------------------------------------------------

    def _turn(self, number: int, configuration: Configuration, with_bandwidth: bool) -> None:
        """Measure one configuration once, unless an earlier try finished after the connection was lost."""
        remote = f"{self._folder}/{number}"
        before = after = hot = None
        waited_s = 0.0
        if not self._finished_earlier(remote):
            waited_s, hot, before = self._cool()
            began_s = self.journal.elapsed_s
            self._start(configuration, remote, with_bandwidth)
            after = read_sensors(self.adb)
        else:
            began_s = self.journal.elapsed_s
        document = self._pulled(remote)
        check_turn(document, configuration, self.order.settings, self.adb.serial)
        self.journal.add(
            Taken(
                number=number,
                t_s=began_s,
                after_s=self.journal.elapsed_s,
                waited_s=waited_s,
                before=before,
                after=after,
                hot_celsius=hot,
                document=document,
            )
        )

    def _probe(self) -> Document:
        """The machine as the program sees it, and proof that it measures at all."""
        self._say("probing")
        remote = f"{self._folder}/probe"
        if not self._finished_earlier(remote):
            self._run(["--prompt-tokens", "1", "--decode-tokens", "1", "--threads", "1"], self.order.files[0], remote)
        return self._pulled(remote)

    def _start(self, configuration: Configuration, remote: str, with_bandwidth: bool) -> None:
        settings = self.order.settings
        words = ["--threads", str(configuration.threads), "--seed", str(settings.seed)]
        words += ["--prompt-tokens", str(settings.prompt_tokens), "--decode-tokens", str(settings.decode_tokens)]
        if configuration.requested_loops is not None:
            words += ["--loops", str(configuration.requested_loops)]
        if settings.cpus is not None:
            words += ["--cpus", write_cpus(settings.cpus)]
        label = configuration.artifact.label
        self._run(words, next(one for one in self.order.files if one.label == label), remote, with_bandwidth)

    def _run(self, words: list[str], file: File, remote: str, with_bandwidth: bool = False) -> None:
        """One process on the device; its result lies at `remote`.json only when it is whole.

        `busy` holds the shell's process, so that a later connection knows whether the turn still goes on.
        """
        command = [self.engine.remote, "bench", file.payload.remote, *words, "--repetitions", "1", "--json"]
        command += [] if with_bandwidth else ["--no-bandwidth"]
        part, error, busy = quoted(f"{remote}.part"), quoted(f"{remote}.err"), quoted(f"{FOLDER}/busy")
        self.adb.checked(
            f"mkdir -p {quoted(self._folder)} && echo $$ > {busy} || exit 1\n"
            f"{quoted(*command)} > {part} 2> {error}\n"
            "code=$?\n"
            f"if [ $code -eq 0 ]; then mv {part} {quoted(f'{remote}.json')}; code=$?; else cat {error} >&2; fi\n"
            f"rm -f {busy} {error}\n"
            "exit $code",
            f"measuring {file.label}",
            TURN_S,
        )

    def _finished_earlier(self, remote: str) -> bool:
        """Whether the turn's result lies on the device; waits while an unwatched one still runs."""
        busy = quoted(f"{FOLDER}/busy")
        look = (
            f"if [ -f {quoted(f'{remote}.json')} ]; then echo ready\n"
            f'elif [ -f {busy} ] && grep -q -F {quoted(FOLDER)} "/proc/$(cat {busy})/cmdline" 2>/dev/null; '
            "then echo busy; else echo free; fi"
        )
        for _ in range(int(TURN_S / POLL_S)):
            told = self.adb.checked(look, "looking for an earlier turn").strip()
            if told != "busy":
                return told == "ready"
            self._say("waiting for a turn that began before the connection was lost")
            self._pause(POLL_S)
        raise MobileloopError(f"{self.adb.serial} is busy with another measurement for too long; restart it.")

    def _pulled(self, remote: str) -> Document:
        with tempfile.TemporaryDirectory(prefix="mobileloop-") as folder:
            local = Path(folder) / "turn.json"
            self.adb.pull(f"{remote}.json", local, "fetching a result")
            return Document.read(local)

    # -- heat --------------------------------------------------------------------------------------

    def _check_thermometer(self, sensors: Sensors) -> None:
        if self.order.max_celsius is not None and sensors.watched() is None:
            raise MobileloopError(
                f"{self.adb.serial} shows no thermometer of skin, battery or processor, so --max-temperature cannot "
                "be kept; leave it out."
            )

    def _cool(self) -> tuple[float, float | None, Sensors]:
        """Wait for the temperature: (seconds waited, degrees where it is still too hot, the sensors just now)."""
        waited = 0.0
        while True:
            sensors = read_sensors(self.adb)
            watched, limit = sensors.watched(), self.order.max_celsius
            if limit is None or watched is None or watched[1] <= limit:
                return waited, None, sensors
            if waited >= self.order.cooldown_s:
                return waited, watched[1], sensors
            self._say(f"{watched[0]} at {watched[1]:.1f} °C, waiting for {limit:g} °C")
            pause = min(POLL_S, self.order.cooldown_s - waited)
            self._pause(pause)
            waited += pause

    def _pause(self, seconds: float) -> None:
        if self.adb.stop.wait(seconds):
            raise Stopped

    # -- losing and finding the device ---------------------------------------------------------------

    def _kept(self, action: Callable[[], Any]) -> Any:
        """The action's result, tried again when the device was lost and came back."""
        found: list[Any] = []
        retried(self.adb, self.order.wait_s, lambda: found.append(action()), self._lost)
        return found[-1]

    def _lost(self, error: AdbError) -> None:
        self.losses += 1
        self._say(f"lost, waiting up to {self.order.wait_s:.0f} s for it")

    def _say(self, what: str, done: int = 0, total: int = 0) -> None:
        self.progress(self.adb.serial, done, total, what)

    # -- the document ------------------------------------------------------------------------------

    def _key(self) -> dict[str, Any]:
        order = self.order
        return {
            "device": self.adb.serial,
            "version": __version__,
            "program": self.engine.sha256,
            "artifacts": [[one.label, one.payload.sha256] for one in order.files],
            "settings": order.settings.model_dump(mode="json"),
            "temperature": [order.max_celsius, order.cooldown_s],
            "bandwidth": order.with_bandwidth,
        }

    def _described(self, machine: Machine) -> Machine:
        """What the program read there, and what only Android tells."""
        told: dict[str, Any] = {"soc": self.device.soc, "android": self.device.build}
        if self.device.android is not None:
            told["os"] = f"Android {self.device.android}"
        if self.device.virtual:
            told["hypervisor"] = True
        return machine.model_copy(update={name: value for name, value in told.items() if value is not None})

    def _plan(self) -> Plan:
        settings = self.order.settings
        if not settings.threads:
            big = [cpu for one in self.machine.clusters if one.big is not False for cpu in one.cpus]
            most = len(settings.cpus) if settings.cpus else len(big) or self.machine.cores_usable or 1
            settings = settings.model_copy(update={"threads": list(dict.fromkeys([1, most]))})
        return make_plan(self.order.artifacts(), settings)

    def _publish(self) -> None:
        order, header = self.order, self.journal.header
        document = assemble(self.plan, self.machine, self.device, self.turns, self.journal.turns, order.max_celsius)
        settings = document.settings and document.settings.model_copy(
            update={"max_celsius": order.max_celsius, "cooldown_s": order.cooldown_s}
        )
        told = {**self.device.model_dump(mode="json"), "losses": self.losses}
        self.outcome.document = document.model_copy(
            update={"id": header.id, "command": order.command, "settings": settings, "device": told}
        )
        if self.out is not None:
            self.outcome.document.write(self.out)
