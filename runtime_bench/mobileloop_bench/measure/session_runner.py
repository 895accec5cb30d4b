"""What takes turns in the rounds, and the raw samples it leaves behind: here an artifact in a session.

`peers.turns` has the others.
"""

from __future__ import annotations

import gc
import math
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mobileloop import runtimes
from mobileloop.errors import MobileloopError
from mobileloop.runtimes.base import Session, SessionOptions
from mobileloop.runtimes.engine import EngineSession
from mobileloop.runtimes.topology import parse_cpus
from mobileloop_bench.measure.interference import Interference, Watch
from mobileloop_bench.measure.plan import FIRST_TOKENS, Configuration, Settings
from mobileloop_bench.measure.probes import Consumption, Probes

STAGE_TOKENS = 4  # decoded behind each timed block to see where the time goes
SLOW_DOWN = "MOBILELOOP_BENCH_SLOW_DOWN"  # a share such as 0.1, for tests of what compares results


@dataclass
class Samples:
    """The raw times of one configuration, in ms.

    Attributes:
        load_ms: opening the artifact, with the file in the page cache and the runtime's library loaded; one per
            repetition.
        first_token_ms: the same opening and evaluating the first 8 tokens.
        prefill_ms: the whole prompt of all sequences; one per repetition.
        decode_ms: one per decoded token (of all sequences), repetition after repetition.
        stage_ms: of tokens apart from the timed ones: every row of `EngineSession.stage_times`.
        interference: other programs during prefill and decode.
        consumption: hardware events and energy of the decoded tokens.
        mhz, celsius: the clock and the temperature behind each repetition, None where the machine hides one; empty
            where it hides both.
        details: what the session said of itself; the artifact's where none was opened yet.
        failure: why there are no more of a peer's; None where nothing failed.
    """

    configuration: Configuration
    load_ms: list[float] = field(default_factory=list)
    first_token_ms: list[float] = field(default_factory=list)
    prefill_ms: list[float] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)
    stage_ms: list[list[tuple[str, list[float]]]] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)
    interference: Interference = field(default_factory=Interference)
    consumption: Consumption = field(default_factory=Consumption)
    mhz: list[float | None] = field(default_factory=list)
    celsius: list[float | None] = field(default_factory=list)
    failure: str | None = None


class Runner(Protocol):
    """What the rounds ask of whatever takes part in them; `samples` grow with every turn."""

    samples: Samples

    def evaluate(self) -> None:
        """Time one prompt and the tokens behind it."""

    def load(self) -> None:
        """Time an opening that is closed again, beside what is open already."""

    def close(self) -> None:
        """Give memory back until the next turn."""


def prompt_of(vocab_size: int, count: int, seed: int) -> list[int]:
    """The same pseudo-random token ids for every configuration of one vocabulary."""
    generator = random.Random(seed)
    return [generator.randrange(vocab_size) for _ in range(count)]


class SessionRunner:
    """An artifact in a session of its own, opened and warmed up at its first turn, and again after `close`."""

    def __init__(self, configuration: Configuration, settings: Settings, probes: Probes) -> None:
        self.samples = Samples(configuration)
        self._settings, self._probes = settings, probes
        self._session: Session | None = None

    def evaluate(self) -> None:
        """The tokens are fixed, the decoded ones too: their ids do not change the work."""
        one, settings, samples, session = self.samples.configuration, self._settings, self.samples, self._open()
        lengths = (one.depth, settings.prompt_tokens, settings.decode_tokens)
        tokens = prompt_of(session.info.config.vocab_size, sum(lengths), settings.seed)
        prompt_end = one.depth + settings.prompt_tokens
        with quiet():
            if one.depth:
                run_tokens(session, one.sequences, tokens[: one.depth])
            with Watch(samples.interference):
                start = time.perf_counter_ns()
                run_tokens(session, one.sequences, tokens[one.depth : prompt_end])
                samples.prefill_ms.append(_ms_since(start))
                with self._probes.decoding(samples.consumption, settings.decode_tokens * one.sequences):
                    _decode(session, one, tokens[prompt_end:], samples.decode_ms)
            cpus = samples.details.get("cpus")
            self._probes.conditions(samples, parse_cpus(cpus) if cpus else None)
            self._see_stages(session, tokens)

    def load(self) -> None:
        """Calibration of streaming is no part of a load."""
        with quiet():
            start = time.perf_counter_ns()
            session = open_configuration(self.samples.configuration, stream="off")
            opened = _ms_since(start)
            try:
                _first_tokens(session)
                self.samples.first_token_ms.append(_ms_since(start))
                self.samples.load_ms.append(opened)
            finally:
                session.close()

    def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _open(self) -> Session:
        """The session, warm and reset; engine threads of other sessions are parked meanwhile, so they cost nothing."""
        if self._session is None:
            self._session = open_configuration(self.samples.configuration)
            self.samples.details = self._session.details()
            if self._probes.counters.reason:
                self.samples.details["counters"] = f"none: {self._probes.counters.reason}"
            _first_tokens(self._session)
            self._session.decode(0)
        self._session.reset()
        return self._session

    def _see_stages(self, session: Session, tokens: Sequence[int]) -> None:
        """Reading the times between timed tokens would let threads fall asleep, so these tokens come behind them."""
        if not isinstance(session, EngineSession):
            return
        session.time_stages()
        for token in tokens[: min(STAGE_TOKENS, session.info.context - len(tokens))]:
            run_tokens(session, self.samples.configuration.sequences, [token])
            self.samples.stage_ms.append(session.stage_times())
        session.time_stages(False)


def open_configuration(configuration: Configuration, stream: str | None = None) -> Session:
    """A new session of a configuration; `stream` in the place of its own mode.

    Raises:
        MobileloopError: as `open_session`, and where the test variable that slows sessions down is not understood.
    """
    artifact, sequences = configuration.artifact, configuration.sequences
    options: SessionOptions = {**artifact.options, "stream": stream or configuration.stream}
    threads, loops = configuration.threads, configuration.requested_loops
    session = runtimes.open_session(artifact.path, threads=threads, loops=loops, sequences=sequences, **options)
    share = slow_down()
    if share and isinstance(session, EngineSession):
        session.slow_down(share)
    return session


def slow_down() -> float:
    """The share that a test asks engine sessions to be slower by; 0 without one. Results name it in their details."""
    text = os.environ.get(SLOW_DOWN) or "0"
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 10:
        raise MobileloopError(f"{SLOW_DOWN} is '{text}', but a share from 0 to 10 was expected; unset it.")
    return share


def run_tokens(session: Session, sequences: int, tokens: Sequence[int]) -> None:
    """The same tokens of every sequence, in one pass over the weights."""
    if sequences == 1:
        session.prefill(tokens)
    else:
        assert isinstance(session, EngineSession)  # the plan gives several sequences to no other
        session.run(range(sequences), [tokens] * sequences)


def _decode(session: Session, one: Configuration, tokens: Sequence[int], into: list[float]) -> None:
    for token in tokens:
        start = time.perf_counter_ns()
        run_tokens(session, one.sequences, [token])
        into.append(_ms_since(start))


def _first_tokens(session: Session) -> None:
    session.prefill(prompt_of(session.info.config.vocab_size, FIRST_TOKENS, seed=0))


def _ms_since(start_ns: int) -> float:
    return (time.perf_counter_ns() - start_ns) / 1e6


class quiet:
    """No garbage collection inside a timed block; it would land in some samples and not in others."""

    def __enter__(self) -> None:
        gc.collect()
        gc.disable()

    def __exit__(self, *error: object) -> None:
        gc.enable()
