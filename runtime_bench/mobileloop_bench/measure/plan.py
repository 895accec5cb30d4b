"""What is measured: every artifact with every loop count, streaming mode, depth, batch and thread count it allows."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mobileloop import runtimes
from mobileloop.artifact import ArtifactInfo, runtime_of
from mobileloop.console import visible
from mobileloop.errors import MobileloopError
from mobileloop.runtimes.base import SessionOptions
from mobileloop.runtimes.streaming import Streaming
from mobileloop.spec.capabilities import Asked, lacking
from mobileloop_bench.results.result import LOADING, PHASES, TURN_PHASES, Phase
from mobileloop_bench.results.settings import Settings
from mobileloop_bench.writing.units import beside, counted

if TYPE_CHECKING:
    from mobileloop_bench.measure.process import Entry

FIRST_TOKENS = 8


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
        busy: processes of ours that compute beside it, to see what is left of its speed.
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
    busy: int = 0
    peer: str | None = None
    entry: Entry | None = None

    @property
    def label(self) -> str:
        """The file that runs: the artifact's, or the peer's, and the checkpoint's where a peer has none."""
        if self.peer is None:
            return self.artifact.label
        return self.entry.path.name if self.entry else self.artifact.info.source

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What is timed: a peer's opening is part of starting its process, and beside busy processes none is timed."""
        return PHASES if self.peer is None and not self.busy else TURN_PHASES

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
        parts += [beside(self.busy)] if self.busy else []
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
        label = visible(path.name if names.count(path.name) == 1 else str(path))
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
    if lacks := lacking(runtime, Asked(sequences=one.sequences, stream=one.stream)):
        return f"{runtime} does not run {lacks}; that needs an engine artifact"
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


def kv_bytes(one: Configuration, phase: Phase, settings: Settings) -> int | None:
    """KV bytes of all sequences' token in the middle of decode, or of the prompt's last token."""
    if phase in LOADING or not _runs(one):
        return None
    token_bytes = one.artifact.info.token_bytes
    if one.peer is not None:
        if one.entry is None or one.entry.kv_bits is None:
            return None
        token_bytes = dataclasses.replace(token_bytes, kv_bits=one.entry.kv_bits)
    behind = settings.prompt_tokens - 1 if phase == "prefill" else settings.prompt_tokens + settings.decode_tokens // 2
    return one.sequences * token_bytes.kv(one.depth + behind, one.requested_loops)


def _runs(one: Configuration) -> bool:
    return one.loops <= one.artifact.info.schedule.max_loops
