"""From the turns of a device to one run's document, by the same rules as those of `mobileloop bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mobileloop.errors import MobileloopError
from mobileloop_bench.bandwidth.ceiling import Bandwidth
from mobileloop_bench.devices.describe import Device, by_cluster
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.measure.journal import Taken
from mobileloop_bench.measure.plan import Configuration, Plan
from mobileloop_bench.measure.samples import Measurement, Samples
from mobileloop_bench.measure.summary import make_document
from mobileloop_bench.measure.turns import Rounds
from mobileloop_bench.results.document import Document
from mobileloop_bench.results.result import Result, Sample
from mobileloop_bench.results.settings import Settings
from mobileloop_bench.results.validity import Code, doubted
from mobileloop_bench.writing.units import counted

Turns = Sequence[tuple[Configuration, bool]]  # what runs, and whether it measures the read bandwidth first


def order_of_turns(plan: Plan, with_bandwidth: bool) -> Turns:
    """Every round's configurations in the order they run; the first of each thread count measures bandwidth too."""
    turns, seen = list[tuple[Configuration, bool]](), set[int]()
    rounds = Rounds(len(plan.configurations), plan.settings)
    for number in range(rounds.most):
        for turn in rounds.turns(number):
            one = plan.configurations[turn.contestant]
            turns.append((one, with_bandwidth and one.threads not in seen))
            seen.add(one.threads)
    return turns


def check_turns(found: Mapping[int, Taken], turns: Turns, settings: Settings, serial: str) -> None:
    """Raise MobileloopError where turns of a journal are not those of the run."""
    for number, turn in found.items():
        if number >= len(turns):
            raise MobileloopError(
                f"the journal of {serial} holds turn {number} of {len(turns)}; delete the file and measure again."
            )
        check_turn(turn.document, turns[number][0], settings, serial)


def check_turn(document: Document, one: Configuration, settings: Settings, serial: str) -> None:
    """Raise MobileloopError where a document is not one round of this configuration."""
    expected = {"load": 1, "first_token": 1, "prefill": 1, "decode": settings.decode_tokens}
    found = {
        row.phase: len(row.samples_ms)
        for row in document.results
        if (row.loops, row.threads) == (one.loops, one.threads)
    }
    if found != expected or len(document.results) != len(expected):
        raise MobileloopError(
            f"the result of {one} on {serial} holds samples {found}, but {expected} were expected; build the program "
            "again with make engine-arm64."
        )


def assemble(
    plan: Plan, machine: Machine, device: Device, turns: Turns, found: Mapping[int, Taken], max_celsius: float | None
) -> Document:
    """Everything so far; `interrupted` while turns are missing."""
    done = [found[number] for number in sorted(found)]
    samples = {place(one): Samples(one) for one in plan.configurations}
    hot: dict[tuple[str, int, int], list[float]] = {}
    bandwidth: list[Bandwidth] = []
    for turn in done:
        key = place(turns[turn.number][0])
        _add(samples[key], turn.document.results)
        bandwidth += turn.document.bandwidth
        if turn.hot_celsius is not None:
            hot.setdefault(key, []).append(turn.hot_celsius)
    interrupted = len(done) < len(turns)
    measurement = Measurement(plan, list(samples.values()), sessions_kept=False, interrupted=interrupted)
    document = make_document(measurement, machine, bandwidth, {}, None)
    doubts = {key: _heat(degrees, max_celsius) for key, degrees in hot.items()}
    virtual = [Code.VIRTUAL.said("the device is an emulated phone of the Android SDK")] if device.virtual else []
    return document.model_copy(
        update={
            "seconds": done[-1].after_s if done else 0.0,
            "series": [sample for turn in done for sample in _series(turn, machine)],
            "results": [
                doubted(row, doubts.get((row.artifact, row.loops, row.threads), []) + virtual)
                for row in document.results
            ],
        }
    )


def place(one: Configuration) -> tuple[str, int, int]:
    """What tells a configuration from the others of a plan."""
    return one.artifact.label, one.loops, one.threads


def _heat(degrees: Sequence[float], max_celsius: float | None) -> list[str]:
    limit = "the limit" if max_celsius is None else f"{max_celsius:g} °C"
    return [Code.HOT.said(f"{counted(len(degrees), 'turn')} began above {limit}, at up to {max(degrees):.1f} °C")]


def _series(turn: Taken, machine: Machine) -> list[Sample]:
    clusters = [one.cpus for one in machine.clusters]
    return [
        Sample(t_s=t_s, mhz=by_cluster(sensors.mhz, clusters), celsius=sensors.celsius)
        for t_s, sensors in ((turn.t_s, turn.before), (turn.after_s, turn.after))
        if sensors is not None
    ]


def _add(samples: Samples, rows: Sequence[Result]) -> None:
    """The times of one turn behind those of earlier ones."""
    found = {row.phase: row for row in rows}
    decode, prefill = found["decode"], found["prefill"]
    samples.load_ms += found["load"].samples_ms
    samples.first_token_ms += found["first_token"].samples_ms
    samples.prefill_ms += prefill.samples_ms
    samples.decode_ms += decode.samples_ms
    samples.details.update(decode.details)
    wall_s, into = sum(prefill.samples_ms + decode.samples_ms) / 1e3, samples.interference
    into.wall_s += wall_s
    into.switches = None  # the program does not tell
    if decode.other_cores is None or decode.stolen_cores is None:
        into.known = False
    else:
        into.other_s += decode.other_cores * wall_s
        into.stolen_s += decode.stolen_cores * wall_s
