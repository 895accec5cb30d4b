"""Interleaved rounds: every configuration once per round, in an order that rotates, every raw sample kept.

Neighbours on a shared machine, heat and frequency change over minutes. Measuring one configuration after the
other would turn such a change into a difference between configurations; a round of all of them does not, and
rotating the order gives each of them every place in the round.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil

from mobileloop import runtimes
from mobileloop.runtimes.base import Session, SessionOptions
from mobileloop_bench.interference import Interference, Watch
from mobileloop_bench.plan import FIRST_TOKENS, Configuration, Plan

Progress = Callable[[int, int, str], None]


@dataclass
class Samples:
    """The raw times of one configuration, in ms.

    Attributes:
        load_ms: opening the artifact, with the file in the page cache and the runtime's library loaded; one per
            repetition.
        first_token_ms: the same opening and evaluating the first 8 tokens.
        prefill_ms: the whole prompt; one per repetition.
        decode_ms: one per decoded token, repetition after repetition.
        interference: other programs during prefill and decode.
        details: what the session said of itself; the artifact's where none was opened yet.
    """

    configuration: Configuration
    load_ms: list[float] = field(default_factory=list)
    first_token_ms: list[float] = field(default_factory=list)
    prefill_ms: list[float] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)
    interference: Interference = field(default_factory=Interference)


@dataclass
class Measurement:
    """Every configuration's samples; `interrupted` where the user stopped before the end."""

    plan: Plan
    samples: list[Samples]
    sessions_kept: bool = True
    interrupted: bool = False


def prompt_of(vocab_size: int, count: int, seed: int) -> list[int]:
    """The same pseudo-random token ids for every configuration of one vocabulary."""
    generator = random.Random(seed)
    return [generator.randrange(vocab_size) for _ in range(count)]


def rotated(count: int, turn: int) -> list[int]:
    """0 .. count-1, started one place further every turn."""
    start = turn % count
    return [*range(start, count), *range(start)]


def measure(plan: Plan, progress: Progress = lambda done, total, what: None) -> Measurement:
    """Run the plan. Ctrl-C ends it early and keeps what was measured.

    Args:
        plan: what to run.
        progress: called between turns, never inside one, with (done, total, what comes next).
    """
    measurement = Measurement(plan, [Samples(one) for one in plan.configurations], sessions_kept=_fits_memory(plan))
    sessions = _Sessions(measurement.sessions_kept)
    repetitions, count = plan.settings.repetitions, len(plan.configurations)
    total, done = (2 * repetitions + 1) * count, 0
    # (what, turns of it, order of configurations in a turn)
    phases: tuple[tuple[str, int, Callable[[Samples, Plan, _Sessions], None]], ...] = (
        ("load", repetitions, _load),
        ("warm-up", 1, _warm_up),
        ("prefill and decode", repetitions, _evaluate),
    )
    try:
        for name, turns, run in phases:
            for turn in range(turns):
                for index in rotated(count, turn):
                    samples = measurement.samples[index]
                    progress(done, total, f"{name}: {samples.configuration}")
                    run(samples, plan, sessions)
                    done += 1
        progress(done, total, "done")
    except KeyboardInterrupt:
        measurement.interrupted = True
    finally:
        sessions.close()
    return measurement


class _Sessions:
    """Open sessions by configuration: kept for all rounds, or opened for one turn where memory is short."""

    def __init__(self, keep: bool) -> None:
        self._keep = keep
        self._open: dict[int, Session] = {}

    def get(self, samples: Samples) -> Session:
        """The session of these samples, reset; engine threads of the others are parked, so they cost nothing."""
        session = self._open.get(id(samples))
        if session is None:
            if not self._keep:
                self.close()
            session = self._open[id(samples)] = open_configuration(samples.configuration)
            samples.details = session.details()
            if not self._keep:
                _first_tokens(session)
        session.reset()
        return session

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


def open_configuration(configuration: Configuration, stream: str | None = None) -> Session:
    """A new session of a configuration; `stream` in the place of the artifact's own mode."""
    artifact, threads, loops = configuration.artifact, configuration.threads, configuration.requested_loops
    options: SessionOptions = artifact.options if stream is None else {**artifact.options, "stream": stream}
    return runtimes.open_session(artifact.path, threads=threads, loops=loops, **options)


def _first_tokens(session: Session) -> None:
    session.prefill(prompt_of(session.info.config.vocab_size, FIRST_TOKENS, seed=0))


def _load(samples: Samples, plan: Plan, sessions: _Sessions) -> None:
    with _quiet():
        start = time.perf_counter_ns()
        session = open_configuration(samples.configuration, stream="off")  # calibration is no part of a load
        opened = _ms_since(start)
        try:
            _first_tokens(session)
            samples.first_token_ms.append(_ms_since(start))
            samples.load_ms.append(opened)
        finally:
            session.close()


def _warm_up(samples: Samples, plan: Plan, sessions: _Sessions) -> None:
    session = sessions.get(samples)
    _first_tokens(session)
    session.decode(0)


def _evaluate(samples: Samples, plan: Plan, sessions: _Sessions) -> None:
    """One prefill and one decode. The decoded tokens are fixed too: their ids do not change the work."""
    settings = plan.settings
    session = sessions.get(samples)
    tokens = prompt_of(
        session.info.config.vocab_size, settings.prompt_tokens + settings.decode_tokens, seed=settings.seed
    )
    prompt, decoded = tokens[: settings.prompt_tokens], tokens[settings.prompt_tokens :]
    with _quiet(), Watch(samples.interference):
        start = time.perf_counter_ns()
        session.prefill(prompt)
        samples.prefill_ms.append(_ms_since(start))
        _decode(session, decoded, samples.decode_ms)


def _decode(session: Session, tokens: Sequence[int], into: list[float]) -> None:
    for token in tokens:
        start = time.perf_counter_ns()
        session.decode(token)
        into.append(_ms_since(start))


def _ms_since(start_ns: int) -> float:
    return (time.perf_counter_ns() - start_ns) / 1e6


class _quiet:
    """No garbage collection inside a timed block; it would land in some samples and not in others."""

    def __enter__(self) -> None:
        gc.collect()
        gc.disable()

    def __exit__(self, *error: object) -> None:
        gc.enable()


def _fits_memory(plan: Plan) -> bool:
    """Whether all sessions at once take under half of the free memory, each with a copy of its weights."""
    needed = 0
    for one in plan.configurations:
        info = one.artifact.info
        needed += 2 * info.costs.weight_bytes + info.kv_capacity_bytes()
    return needed < int(psutil.virtual_memory().available) // 2
