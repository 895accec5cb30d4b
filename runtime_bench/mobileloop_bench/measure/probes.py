"""What is watched beside the clock: other programs, hardware events, energy, clocks and temperatures.

Nothing here runs while a token is timed, and nothing in a thread of its own: readings are taken between blocks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mobileloop_bench.machine.sensors import EnergyMeter, cluster_cpus, read_frequencies, read_temperatures
from mobileloop_bench.measure.counters import Counters, between
from mobileloop_bench.measure.samples import Consumption, Moment
from mobileloop_bench.measure.speed import SpeedMeter

if TYPE_CHECKING:
    from mobileloop_bench.measure.samples import Samples

SERIES_SECONDS = 0.5  # between two samples of the series


class Probes:
    """The instruments of one run. Made before any session is opened, so that its threads are counted too."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.counters = Counters()
        self.speed = SpeedMeter()
        self.clusters = cluster_cpus()
        self.series: list[Moment] = []
        self._metered = EnergyMeter().source is not None
        first = self._moment()
        self._sensing = bool(first.mhz or first.celsius)

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.perf_counter() - self.start

    def note(self) -> None:
        """Add to the series, where the machine tells anything and the last sample is old enough."""
        if self._sensing and (not self.series or self.seconds - self.series[-1].t_s >= SERIES_SECONDS):
            self.series.append(self._moment())

    def conditions(self, samples: Samples, cpus: Sequence[int] | None) -> None:
        """Note the fastest clock among the clusters of `cpus`, and the hottest zone, right behind a turn."""
        if not self._sensing:
            return
        now = self._moment()
        where = [i for i, of in enumerate(self.clusters) if cpus is None or set(of) & set(cpus)]
        samples.mhz.append(max((mhz for i, mhz in now.mhz.items() if i in where), default=None))
        samples.celsius.append(max(now.celsius.values(), default=None))

    @contextmanager
    def decoding(self, consumption: Consumption, tokens: int) -> Iterator[None]:
        """Count the events and the energy of a block that decodes `tokens` tokens."""
        meter = EnergyMeter() if self._metered else None
        before = self.counters.read()
        yield
        after = self.counters.read()
        for name, count in between(before, after).items():
            consumption.events[name] = consumption.events.get(name, 0.0) + count
        consumption.tokens += tokens
        joules = meter.joules() if meter else None
        if joules is not None:
            consumption.joules += joules
            consumption.metered_tokens += tokens

    def close(self) -> None:
        """Stop counting, and let the threads of the speed meter go."""
        self.counters.close()
        self.speed.close()

    def _moment(self) -> Moment:
        return Moment(round(self.seconds, 3), read_frequencies(clusters=self.clusters), read_temperatures())
