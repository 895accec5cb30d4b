"""What is measured: every artifact with every loop count, streaming mode, depth, batch and thread count it allows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from mobileloop import runtimes
from mobileloop.artifact import ArtifactInfo, runtime_of
from mobileloop.errors import MobileloopError
from mobileloop.runtimes.base import MAX_SEQUENCES, SessionOptions, default_threads
from mobileloop.runtimes.streaming import Streaming
from mobileloop.runtimes.topology import check_cpus
from mobileloop_bench.writing.units import counted

if TYPE_CHECKING:
    from mobileloop_bench.peers.contestant import Entry

MAX_NUMBER = 1024
MAX_DEPTH = 1 << 24
FIRST_TOKENS = 8


class Settings(BaseModel):
    """The knobs of one run, kept in its JSON document.

    Attributes:
        threads, loops, streams, depths, sequences: the sweep; `loops` null means each artifact's own count.
        repetitions: rounds; the fewest of them where `until_stable` or `time_budget_s` decide.
        cpus: where threads run; null leaves it to each runtime.
        cooldown_s: pause between two rounds.
        until_stable: go on until every decode median is known well enough (docs/measuring.md).
        time_budget_s: of the whole run; as many rounds as fit.
        ended: why no further round was run.
    """

    model_config = ConfigDict(extra="allow")

    threads: list[int]
    loops: list[int] | None = None
    streams: list[str] = ["off"]
    depths: list[int] = [0]
    sequences: list[int] = [1]
    prompt_tokens: int = Field(default=128, ge=1)
    decode_tokens: int = Field(default=64, ge=1)
    repetitions: int = Field(default=5, ge=1)
    seed: int = 0
    cpus: list[int] | None = None
    cooldown_s: float = Field(default=0, ge=0)
    until_stable: bool = False
    time_budget_s: float | None = Field(default=None, gt=0)
    ended: str | None = None

    def swept(self) -> list[str]:
        """What the tables need a column for, beside loops and threads."""
        return [
            name
            for name, values, usual in (("depth", self.depths, [0]), ("batch", self.sequences, [1]))
            if values != usual
        ]

    @classmethod
    def parse(
        cls,
        threads: str | None = None,
        loops: str | None = None,
        streams: str = "auto",
        depths: str = "0",
        sequences: str = "1",
        cpus: Sequence[int] | None = None,
        **more: Any,
    ) -> Settings:
        """Settings from the comma lists of the command line; `more` are fields as they are.

        Args:
            threads: None is 1 and what suits the machine, or all of `cpus`.

        Raises:
            MobileloopError: naming the option whose list holds anything else.
        """
        check_cpus(cpus)
        return cls(
            threads=numbers(threads if threads is not None else f"1,{default_threads(cpus)}", "--threads"),
            loops=None if loops is None else numbers(loops, "--loops"),
            streams=list(dict.fromkeys(str(Streaming.parse(one.strip())) for one in streams.split(","))),
            depths=numbers(depths, "--depth", 0, MAX_DEPTH),
            sequences=numbers(sequences, "--batch", 1, MAX_SEQUENCES),
            cpus=None if cpus is None else list(cpus),
            **more,
        )


@dataclass(frozen=True)
class Artifact:
    """One file under test: `label` is its name, or its path where two names are the same.

    `options` are what sessions are asked for; `details` say what they use.
    """

    label: str
    path: Path
    runtime: str
    info: ArtifactInfo
    details: dict[str, str]
    size_on_disk_bytes: int
    options: SessionOptions = field(default_factory=SessionOptions)


@dataclass(frozen=True)
class Configuration:
    """One place of the sweep.

    Attributes:
        loops: what is shown.
        requested_loops: what the session is asked for, None for each stage's own count.
        stream: the streaming mode that the session is asked for.
        depth: tokens in the KV cache before the prompt.
        sequences: that run together over the same weights.
        peer: the name of what runs the weights that the artifact was exported from, instead of our runtime and the
            artifact.
        entry: what that peer runs; None where it cannot.
    """

    artifact: Artifact
    threads: int
    loops: int
    requested_loops: int | None
    stream: str = "off"
    depth: int = 0
    sequences: int = 1
    peer: str | None = None
    entry: Entry | None = None

    @property
    def label(self) -> str:
        """The file that runs: the artifact's, or the peer's, and the checkpoint's where a peer has none."""
        if self.peer is None:
            return self.artifact.label
        return self.entry.path.name if self.entry else self.artifact.info.source

    def decode_samples(self, settings: Settings) -> int:
        """Samples of one round: a time per token, or one of the whole decode where a runtime tells no more."""
        return 1 if self.entry and self.entry.whole_decodes else settings.decode_tokens

    def __str__(self) -> str:
        parts = [
            f"{self.peer}: {self.label}" if self.peer else self.label,
            counted(self.loops, "loop"),
            counted(self.threads, "thread"),
        ]
        parts += [f"stream {self.stream}"] if self.stream not in ("auto", "off") else []
        parts += [f"depth {self.depth}"] if self.depth else []
        parts += [counted(self.sequences, "sequence")] if self.sequences > 1 else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Skipped:
    """A configuration that was asked for and cannot run, with the reason."""

    configuration: Configuration
    reason: str


@dataclass(frozen=True)
class Plan:
    """The configurations in the order they were asked for."""

    settings: Settings
    artifacts: tuple[Artifact, ...]
    configurations: tuple[Configuration, ...]
    skipped: tuple[Skipped, ...]


def numbers(text: str, option: str, least: int = 1, most: int = MAX_NUMBER) -> list[int]:
    """`1,2,4` as numbers, repeats dropped.

    Raises:
        MobileloopError: naming the option, where an entry is not a whole number from `least` to `most`.
    """
    found: dict[int, None] = {}
    for entry in text.split(","):
        stripped = entry.strip()
        if not (stripped.isascii() and stripped.isdigit() and least <= int(stripped[:9]) <= most):
            raise MobileloopError(
                f"{option} '{text}' holds '{stripped}', but whole numbers from {least} to {most} with commas "
                f"between them were expected; write for example {option} {least},{least + 1}."
            )
        found[int(stripped)] = None
    return list(found)


def open_artifacts(paths: Sequence[Path], options: SessionOptions | None = None) -> list[Artifact]:
    """Open every file once and close it again, to know what it is.

    That first opening also loads the runtime's library, so that the load phase times the artifact alone; it calibrates
    no streaming.
    """
    if not paths:
        raise MobileloopError("there is nothing to measure; name at least one artifact.")
    options = options or {}
    first_options: SessionOptions = {**options, "stream": "off"}
    unique = list(dict.fromkeys(paths))
    names = [path.name for path in unique]
    artifacts = []
    for path in unique:
        runtime = runtime_of(path)
        session = runtimes.open_session(path, threads=1, **first_options)
        try:
            info, details = session.info, session.details()
        finally:
            session.close()
        label = path.name if names.count(path.name) == 1 else str(path)
        size = _size_on_disk(path)
        artifacts.append(Artifact(label, path, runtime, info, details, size, options))
    return artifacts


def make_plan(artifacts: Sequence[Artifact], settings: Settings) -> Plan:
    """The cartesian product of artifacts, loops, streaming modes, depths, sequences and threads.

    Raises:
        MobileloopError: where a prompt does not fit an artifact's context, or nothing is left to measure.
    """
    needed = settings.prompt_tokens + settings.decode_tokens
    for artifact in artifacts:
        if max(needed, FIRST_TOKENS) > artifact.info.context:
            raise MobileloopError(
                f"{settings.prompt_tokens} prompt and {settings.decode_tokens} decode tokens do not fit the context "
                f"of {artifact.info.context} of {artifact.label}; ask for fewer or export with a larger --context."
            )
    configurations, skipped = [], []
    asked: list[int | None] = [None] if settings.loops is None else [*settings.loops]
    sweep = itertools.product(artifacts, asked, settings.streams, settings.depths, settings.sequences, settings.threads)
    for artifact, requested, stream, depth, sequences, threads in sweep:
        loops = artifact.info.schedule.default_loops if requested is None else requested
        one = Configuration(artifact, threads, loops, requested, stream, depth, sequences)
        refused = _refusal(one, needed)
        if refused is None:
            configurations.append(one)
        else:
            skipped.append(Skipped(one, refused))
    if not configurations:
        why = skipped[0].reason if skipped else "the sweep is empty; give every option at least one value"
        raise MobileloopError(f"nothing is left to measure: {why}.")
    return Plan(settings, tuple(artifacts), tuple(configurations), tuple(skipped))


def _refusal(one: Configuration, needed: int) -> str | None:
    """Why a configuration cannot run, or None."""
    info, runtime = one.artifact.info, one.artifact.runtime
    try:
        info.schedule.check_loops(one.requested_loops)
    except MobileloopError as error:
        return str(error).rstrip(".")
    if runtime != "engine" and one.sequences > 1:
        return f"{runtime} holds one sequence; --batch {one.sequences} needs an engine artifact"
    if runtime != "engine" and one.stream not in ("auto", "off"):
        return f"{runtime} knows no next stage to stream; --stream {one.stream} needs an engine artifact"
    streaming = Streaming.parse(one.stream).threads
    if streaming >= one.threads:
        return f"--stream {one.stream} on {counted(one.threads, 'thread')} leaves none to compute"
    if one.depth + needed > info.context:
        return f"--depth {one.depth} and {needed} prompt and decode tokens do not fit the context of {info.context}"
    return None


def _size_on_disk(path: Path) -> int:
    """Bytes of the file and of the external data that an .onnx keeps beside it."""
    beside = path.with_name(path.name + ".data")
    return path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)
