"""A peer's turns in the rounds of `mobileloop bench`: fresh processes that time one prompt and one decode."""

from __future__ import annotations

import dataclasses
import json
import math
import sys

from mobileloop_bench.measure.interference import Watch, neighbours
from mobileloop_bench.measure.plan import Configuration
from mobileloop_bench.measure.probes import Probes
from mobileloop_bench.measure.process import Command, CommandFailed, Entry, Series, Turn, run_command
from mobileloop_bench.measure.samples import Samples
from mobileloop_bench.results.settings import Settings
from mobileloop_bench.results.speed import slower

# Starts its arguments on the cpus of a list; what it starts keeps them, and so do all its threads.
_ON_CPUS = "import json, os, sys; os.sched_setaffinity(0, json.loads(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"


class ProcessRunner:
    """A peer's runtime with its own model file; after a failure it has no more turns."""

    def __init__(self, configuration: Configuration, settings: Settings, probes: Probes) -> None:
        self.samples = Samples(configuration)
        self._settings, self._probes = settings, probes

    def evaluate(self) -> None:
        """Both figures or none; a failure is kept with its reason and does not end the run."""
        one, samples = self.samples.configuration, self.samples
        if one.entry is None or samples.failure is not None:
            return
        before = self._probes.speed.read(one.threads, self._settings.cpus)
        try:
            with Watch(samples.interference, children=True), neighbours(one.busy):
                series = self._series(one.entry)
        except CommandFailed as failure:
            samples.failure = str(failure)
            return
        samples.prefill_ms += series["prefill_ms"]
        samples.decode_ms += series["decode_ms"]
        self._probes.conditions(samples, self._settings.cpus)
        samples.speeds.append(slower(before, self._probes.speed.read(one.threads, self._settings.cpus)))

    def load(self) -> None:
        """Opening its file is part of starting its process, and is not timed."""

    def close(self) -> None:
        """Nothing is kept between turns."""

    def _series(self, entry: Entry) -> Series:
        one, settings = self.samples.configuration, self._settings
        turn = Turn(
            threads=one.threads,
            depth=one.depth,
            prompt_tokens=settings.prompt_tokens,
            decode_tokens=settings.decode_tokens,
            vocab_size=one.artifact.info.config.vocab_size,
            seed=settings.seed,
        )
        series: Series = {}
        for command in entry.commands(turn):
            series |= run_command(on_cpus(command, settings.cpus))
        for name, count in (("prefill_ms", 1), ("decode_ms", one.decode_samples(settings))):
            times = series.get(name, [])
            if len(times) != count or not all(math.isfinite(time) and time > 0 for time in times):
                raise CommandFailed(f"its output was not understood: {name} should hold {count} times")
        return series


def on_cpus(command: Command, cpus: list[int] | None) -> Command:
    """The same command, its threads on any of these cpus."""
    if cpus is None:
        return command
    return dataclasses.replace(command, argv=[sys.executable, "-c", _ON_CPUS, json.dumps(cpus), *command.argv])
