"""What takes turns in the rounds, and the raw samples it leaves behind: here an artifact in a session.

`process_runner` has the others.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence

from mobileloop import runtimes
from mobileloop.errors import MobileloopError
from mobileloop.runtimes.base import Session, SessionOptions
from mobileloop.runtimes.topology import parse_cpus
from mobileloop_bench.measure.interference import Watch, neighbours
from mobileloop_bench.measure.plan import FIRST_TOKENS, Configuration
from mobileloop_bench.measure.probes import Probes
from mobileloop_bench.measure.samples import Samples, ms_since, prompt_of, quiet
from mobileloop_bench.results.settings import Settings
from mobileloop_bench.results.speed import slower

STAGE_TOKENS = 4  # decoded behind each timed block to see where the time goes
SLOW_DOWN = "MOBILELOOP_BENCH_SLOW_DOWN"  # a share such as 0.1, for tests of what compares results


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
        named = samples.details.get("cpus")
        cpus = parse_cpus(named) if named else None
        with quiet():
            before = self._probes.speed.read(one.threads, cpus)
            if one.depth:
                run_tokens(session, one.sequences, tokens[: one.depth])
            with Watch(samples.interference, children=one.busy > 0), neighbours(one.busy):
                start = time.perf_counter_ns()
                run_tokens(session, one.sequences, tokens[one.depth : prompt_end])
                samples.prefill_ms.append(ms_since(start))
                with self._probes.decoding(samples.consumption, settings.decode_tokens * one.sequences):
                    _decode(session, one, tokens[prompt_end:], samples.decode_ms)
            self._probes.conditions(samples, cpus)
            self._see_stages(session, tokens)
            samples.speeds.append(slower(before, self._probes.speed.read(one.threads, cpus)))

    def load(self) -> None:
        """Calibration of streaming is no part of a load; beside busy processes none is timed."""
        if self.samples.configuration.busy:
            return
        with quiet():
            start = time.perf_counter_ns()
            session = open_configuration(self.samples.configuration, stream="off")
            opened = ms_since(start)
            try:
                _first_tokens(session)
                self.samples.first_token_ms.append(ms_since(start))
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
        if not session.time_stages():
            return
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
    if share:
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
        session.run(range(sequences), [tokens] * sequences)


def _decode(session: Session, one: Configuration, tokens: Sequence[int], into: list[float]) -> None:
    for token in tokens:
        start = time.perf_counter_ns()
        run_tokens(session, one.sequences, [token])
        into.append(ms_since(start))


def _first_tokens(session: Session) -> None:
    session.prefill(prompt_of(session.info.config.vocab_size, FIRST_TOKENS, seed=0))
