"""What is watched beside the clock, on machines that tell and on those that do not."""

from typing import cast

import pytest

from mobileloop_bench.measure import probes
from mobileloop_bench.measure.plan import Artifact, Configuration
from mobileloop_bench.measure.probes import Probes
from mobileloop_bench.measure.samples import Consumption, Samples


class Meter:
    """Two joules for whoever asks."""

    source = "rapl"

    def joules(self) -> float:
        return 2.0


@pytest.fixture(name="told")
def sensors(monkeypatch: pytest.MonkeyPatch) -> Probes:
    monkeypatch.setattr(probes, "cluster_cpus", lambda: [[0, 1], [2, 3]])
    monkeypatch.setattr(probes, "read_frequencies", lambda clusters: {0: 2800.0, 1: 1800.0})
    monkeypatch.setattr(probes, "read_temperatures", lambda: {"cpu": 50.0, "skin": 35.0})
    monkeypatch.setattr(probes, "EnergyMeter", Meter)
    monkeypatch.setattr(probes, "SERIES_SECONDS", -1.0)  # every time: a moment is rounded, perhaps up
    return Probes()


def samples_of_nothing() -> Samples:
    return Samples(Configuration(cast(Artifact, None), threads=1, loops=1, requested_loops=None))


def test_the_clock_is_of_the_clusters_that_ran(told: Probes) -> None:
    samples = samples_of_nothing()
    told.conditions(samples, None)
    told.conditions(samples, [3])
    told.conditions(samples, [7])
    assert samples.mhz == [2800, 1800, None]
    assert samples.celsius == [50, 50, 50]


def test_the_series_grows_by_a_sample_when_it_is_due(told: Probes, monkeypatch: pytest.MonkeyPatch) -> None:
    told.note()
    told.note()
    monkeypatch.setattr(probes, "SERIES_SECONDS", 3600.0)
    told.note()
    assert [(one.mhz[0], one.celsius["skin"]) for one in told.series] == [(2800, 35)] * 2
    assert told.series[0].t_s <= told.series[1].t_s


def test_energy_is_summed_over_tokens(told: Probes) -> None:
    consumption = Consumption()
    for tokens in (4, 8):
        with told.decoding(consumption, tokens):
            pass
    assert (consumption.joules, consumption.metered_tokens, consumption.tokens) == (4.0, 12, 12)


def test_a_block_that_is_interrupted_counts_for_nothing(told: Probes) -> None:
    consumption = Consumption()
    with pytest.raises(KeyboardInterrupt), told.decoding(consumption, 4):
        raise KeyboardInterrupt
    assert consumption == Consumption()


def test_a_machine_that_hides_everything_has_no_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "read_frequencies", lambda clusters: {})
    monkeypatch.setattr(probes, "read_temperatures", dict)
    hidden, samples = Probes(), samples_of_nothing()
    hidden.note()
    hidden.conditions(samples, None)
    assert (hidden.series, samples.mhz, samples.celsius) == ([], [], [])
