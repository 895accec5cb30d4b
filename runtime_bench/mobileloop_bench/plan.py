"""What is measured: every artifact with every thread count and every loop count it allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from mobileloop import runtimes
from mobileloop.artifact import ArtifactInfo, runtime_of
from mobileloop.errors import MobileloopError
from mobileloop.runtimes.base import SessionOptions

MAX_NUMBER = 1024
FIRST_TOKENS = 8


class Settings(BaseModel):
    """The knobs of one run, kept in its JSON document; `loops` null means each artifact's own count.

    `cpus` null leaves it to each runtime where its threads run.
    """

    model_config = ConfigDict(extra="allow")

    threads: list[int]
    loops: list[int] | None = None
    prompt_tokens: int = Field(default=128, ge=1)
    decode_tokens: int = Field(default=64, ge=1)
    repetitions: int = Field(default=5, ge=1)
    seed: int = 0
    cpus: list[int] | None = None


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
    """One artifact with one thread count and one loop count.

    `loops` is what is shown; `requested_loops` is what the session is asked for, None for each stage's own count.
    """

    artifact: Artifact
    threads: int
    loops: int
    requested_loops: int | None

    def __str__(self) -> str:
        loops = f"{self.loops} loop{'s' if self.loops > 1 else ''}"
        return f"{self.artifact.label}, {loops}, {self.threads} thread{'s' if self.threads > 1 else ''}"


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


def numbers(text: str, option: str) -> list[int]:
    """`1,2,4` as numbers, repeats dropped.

    Raises:
        MobileloopError: naming the option, where an entry is not a whole number from 1 to 1024.
    """
    found: dict[int, None] = {}
    for entry in text.split(","):
        stripped = entry.strip()
        if not (stripped.isascii() and stripped.isdigit() and 1 <= int(stripped[:9]) <= MAX_NUMBER):
            raise MobileloopError(
                f"{option} '{text}' holds '{stripped}', but whole numbers from 1 to {MAX_NUMBER} with commas "
                f"between them were expected; write for example {option} 1,2."
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
    """The cartesian product of artifacts, loops and threads.

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
    for artifact in artifacts:
        schedule = artifact.info.schedule
        asked: list[int | None] = [*settings.loops] if settings.loops else [None]
        for requested in asked:
            loops = schedule.default_loops if requested is None else requested
            for threads in settings.threads:
                configuration = Configuration(artifact, threads, loops, requested)
                try:
                    schedule.check_loops(requested)
                except MobileloopError as error:
                    skipped.append(Skipped(configuration, str(error).rstrip(".")))
                else:
                    configurations.append(configuration)
    if not configurations:
        raise MobileloopError(f"nothing is left to measure: {skipped[0].reason}.")
    return Plan(settings, tuple(artifacts), tuple(configurations), tuple(skipped))


def _size_on_disk(path: Path) -> int:
    """Bytes of the file and of the external data that an .onnx keeps beside it."""
    beside = path.with_name(path.name + ".data")
    return path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)
