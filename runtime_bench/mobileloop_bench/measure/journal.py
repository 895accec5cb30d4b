"""The raw turns of a run on a device, one JSON line each as soon as it is over, so that a run can go on later."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt

from mobileloop.errors import MobileloopError, validated
from mobileloop_bench.machine.sensors import Sensors
from mobileloop_bench.results.document import Document


class Header(BaseModel):
    """The first line: which run the turns belong to.

    Attributes:
        key: what must be the same for a turn to count: device, program, artifacts and settings.
        began: seconds since 1970.
    """

    schema_: Literal["mobileloop.turns/1"] = Field(default="mobileloop.turns/1", alias="schema")
    id: str
    began: FiniteFloat
    key: dict[str, Any]


class Taken(BaseModel):
    """A turn that was taken: one configuration in one round.

    Attributes:
        number: place in the run's order of turns.
        t_s: when it began, in seconds since the run began; `after_s` when it was over.
        before: the device just before it; `after` null where it ended while the device was out of reach.
        hot_celsius: the temperature it began at, where that was above the allowed one.
        document: what the program measured.
    """

    model_config = ConfigDict(extra="allow")

    number: NonNegativeInt
    t_s: FiniteFloat
    after_s: FiniteFloat
    waited_s: FiniteFloat = 0.0
    before: Sensors | None = None
    after: Sensors | None = None
    hot_celsius: FiniteFloat | None = None
    document: Document


class Journal:
    """Turns in memory and, where a path is given, on disk; a line that the host's end cut short is dropped.

    Raises:
        MobileloopError: where the file belongs to another run, is damaged, in use, or cannot be written.
    """

    def __init__(self, path: Path | None, key: dict[str, Any]) -> None:
        self.turns: dict[int, Taken] = {}
        self.header = Header(id=secrets.token_hex(8), began=time.time(), key=key)
        self._path, self._file = path, None if path is None else _locked(path)
        if self._file is not None:
            self._read(self._file)

    @property
    def elapsed_s(self) -> float:
        """Since the run began, pauses between commands included."""
        return max(0.0, time.time() - self.header.began)

    def add(self, turn: Taken) -> None:
        """Keep a turn; it is on the disk when this returns."""
        self.turns[turn.number] = turn
        self._append(turn.model_dump_json(by_alias=True))

    def close(self, finished: bool) -> None:
        """Let go of the file; that of a finished run is removed, because the result holds all of it."""
        if self._file is None:
            return
        if finished and self._path is not None:
            self._path.unlink(missing_ok=True)
        self._file.close()
        self._file = None

    def _read(self, file: IO[bytes]) -> None:
        content = file.read()
        whole = content.rpartition(b"\n")[0]
        if whole:
            first, *rest = whole.split(b"\n")
            header = validated(Header, self._json(first, 1), f"line 1 of {self._path}")
            if header.key != self.header.key:
                raise MobileloopError(
                    f"{self._path} holds the turns of another run ({_difference(header.key, self.header.key)}); repeat "
                    "that command to finish it, delete the file, or choose another --json."
                )
            self.header = header
            for number, line in enumerate(rest, 2):
                turn = validated(Taken, self._json(line, number), f"line {number} of {self._path}")
                self.turns[turn.number] = turn
        file.seek(len(whole) + 1 if whole else 0)
        file.truncate()
        if not whole:
            self._append(self.header.model_dump_json(by_alias=True))

    def _json(self, line: bytes, number: int) -> Any:
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise MobileloopError(
                f"line {number} of {self._path} is damaged; delete the file and measure again."
            ) from None

    def _append(self, line: str) -> None:
        if self._file is None:
            return
        try:
            self._file.write(line.encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise MobileloopError(f"{self._path} cannot be written: {error.strerror}.") from None


def _locked(path: Path) -> IO[bytes]:
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "rb+")
    except OSError as error:
        raise MobileloopError(f"{path} cannot be written: {error.strerror}.") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise MobileloopError(f"{path} is in use by another run; wait for it or choose another --json.") from None
    return file


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return f"its {' and '.join(names)} differ{'s' if len(names) == 1 else ''}"
