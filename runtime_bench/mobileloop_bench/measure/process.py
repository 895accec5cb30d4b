"""Other runtimes, each timing its turn in fresh processes: what is asked of them and how they are run."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Series = dict[str, list[float]]


@dataclass(frozen=True)
class Command:
    """A process that measures and prints.

    Attributes:
        argv: what to start.
        request: JSON on its standard input, or None.
        environment: added to this process's.
        parse: its standard output as named series of samples.
    """

    argv: Sequence[str]
    request: Mapping[str, Any] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    parse: Callable[[str], Series] = field(default=lambda text: series_of(text))


@dataclass(frozen=True)
class Turn:
    """What `mobileloop bench` asks of a peer once per round: one prompt behind `depth` tokens, and a decode behind it.

    A fresh process warms up and then times it once.
    """

    threads: int
    depth: int
    prompt_tokens: int
    decode_tokens: int
    vocab_size: int
    seed: int


@dataclass(frozen=True)
class Entry:
    """A runtime with a model file, as it takes part in `mobileloop bench`.

    Attributes:
        version, flags: what a result says of the runtime and of its weights.
        path: of the model, a file or a folder.
        quantization: of its weights, in the runtime's own words.
        commands: whose series together are `prefill_ms`, one time, and `decode_ms`.
        whole_decodes: it times a decode as a whole, so `decode_ms` is one mean time per token; else one per token.
        context: tokens that it has room for; None where they are the model's.
        unique_bytes: weight bytes read at least once per token; None where that is not known.
        executed_bytes: weight bytes touched per token, where the runtime applies blocks again; None is `unique_bytes`.
        schedule: the order of its blocks, where it loops by itself; None where every block of its file runs once.
        kv_bits: per KV element; None where that is not known.
        greedy: the command that continues token ids by so many more, best first, and prints them as `tokens`.
    """

    version: str
    flags: str
    path: Path
    quantization: str
    commands: Callable[[Turn], list[Command]]
    whole_decodes: bool = False
    context: int | None = None
    unique_bytes: int | None = None
    executed_bytes: int | None = None
    schedule: str | None = None
    kv_bits: int | None = None
    greedy: Callable[[Sequence[int], int], Command] | None = None

    @property
    def size_on_disk_bytes(self) -> int:
        """Of the file, or of all files of the folder."""
        files = [self.path] if self.path.is_file() else [path for path in self.path.rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files)


def series_of(text: str) -> Series:
    """The JSON object on the last line of a worker's output.

    Raises:
        ValueError: where there is none, or it holds anything but lists of numbers.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    data = json.loads(lines[-1]) if lines else None
    if not isinstance(data, dict):
        raise ValueError("the worker printed no result")
    return {str(name): [float(value) for value in values] for name, values in data.items()}


TIMEOUT_S = 600


class CommandFailed(Exception):
    """A contestant's process ended badly or said nothing of use."""


def run_command(command: Command) -> Series:
    """The series that a command prints.

    Raises:
        CommandFailed: with the last line of what it complained about.
    """
    try:
        done = subprocess.run(
            list(command.argv),
            input=None if command.request is None else json.dumps(command.request),
            stdin=subprocess.DEVNULL if command.request is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
            env={**os.environ, **command.environment},
        )
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"no answer within {TIMEOUT_S} s") from None
    except OSError as error:
        raise CommandFailed(f"{command.argv[0]} does not start: {error.strerror}") from None
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise CommandFailed(f"{how}: {lines[-1]}" if lines else how)
    try:
        return command.parse(done.stdout)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CommandFailed(f"its output was not understood: {error}") from None
