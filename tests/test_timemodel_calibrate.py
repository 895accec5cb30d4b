"""Calibration: what follows from times, and that the probes run the engine as it is."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from mobileloop.cli import app
from mobileloop.errors import MobileloopError
from mobileloop.runtimes import topology as topology_module
from mobileloop.runtimes.topology import Cache, read_topology
from mobileloop_bench.machine import probe as machine
from mobileloop_bench.machine.card import this_machine
from mobileloop_bench.machine.file import EngineCosts, MachineFile
from mobileloop_bench.timemodel import calibrate
from mobileloop_bench.timemodel.calibrate import (
    Applied,
    block_config,
    copies,
    measure_costs,
    packed_block,
    reread_share,
    unhidden,
)


def test_what_was_not_hidden():
    assert unhidden(10.0, memory=10, compute=4, cached=0) == 0
    assert unhidden(12.0, memory=10, compute=4, cached=0) == 0.5
    assert unhidden(20.0, memory=10, compute=4, cached=0) == 1  # more than both: something else took time
    assert unhidden(9.0, memory=10, compute=4, cached=0) == 0
    assert unhidden(11.0, memory=4, compute=10, cached=2) == 0.5
    assert unhidden(11.0, memory=4, compute=10, cached=4) == 0  # all of it was there when compute was measured


def test_what_a_second_application_misses():
    assert reread_share(10.0, 7.0, 4.0) == 0.5
    assert reread_share(10.0, 3.0, 4.0) == 0
    assert reread_share(10.0, 12.0, 4.0) == 1
    assert reread_share(10.0, 10.0, 9.5) is None


def test_copies_lie_on_pages_of_their_own():
    record = np.arange(2 * calibrate.ALIGNMENT, dtype=np.uint8)
    made = copies(record, 3)
    assert len({copy.ctypes.data for copy in made}) == 3
    assert all(copy.ctypes.data % calibrate.ALIGNMENT == 0 for copy in made)
    assert all((copy == record).all() for copy in made)


def test_the_engine_checks_what_is_applied():
    config = block_config(64)
    record = packed_block(config, "int4").block_record(0)
    applied = Applied(copies(record, 2), config, threads=1, slots=3, capacity=4)
    try:
        assert applied.us(3, position=3) > 0
        with pytest.raises(MobileloopError, match="need more than the 3 KV slots"):
            applied.us(4)
        with pytest.raises(MobileloopError, match="beyond the KV capacity"):
            applied.us(1, position=4)
    finally:
        applied.close()


def test_bandwidth_adds_the_costs_to_the_machine_file(monkeypatch, tmp_path):
    asked = []

    def measured(threads, progress, seconds):
        asked.append((threads, read_ladder()))
        return EngineCosts(compute_gbps=12, kernels="some")

    def read_ladder():
        return MachineFile.read(tmp_path / "m.json").ladder  # there before the costs are: Ctrl-C would keep it

    monkeypatch.setattr(calibrate, "measure_costs", measured)
    arguments = ["--threads", "1", "--sizes", "16K,64K,1M", "--no-cold", "--time-budget", "1", "--json"]
    done = CliRunner().invoke(app, ["bandwidth", *arguments, str(tmp_path / "m.json")])
    assert done.exit_code == 0, done.output
    assert [threads for threads, _ in asked] == [[1]]
    assert asked[0][1].rungs
    assert MachineFile.read(tmp_path / "m.json").costs.compute_gbps == 12
    assert "12.0 GB/s of resident int4 weights (some)" in done.output
    done = CliRunner().invoke(app, ["bandwidth", "--no-costs", *arguments, str(tmp_path / "m.json")])
    assert done.exit_code == 0, done.output
    assert len(asked) == 1
    assert MachineFile.read(tmp_path / "m.json").costs is None


@pytest.fixture
def small(monkeypatch):
    """Probes so small and short that their figures mean nothing."""
    monkeypatch.setattr(calibrate, "HIDDEN", (128, 64))
    monkeypatch.setattr(calibrate, "STREAMED_HIDDEN", (128,))
    monkeypatch.setattr(calibrate, "STREAMED_BYTES", 1 << 20)


def test_a_machine_file_of_bandwidth_is_all_that_plan_needs(small, monkeypatch, tmp_path):
    topology = read_topology()
    tiny = [Cache(level=1, kind="data", size_bytes=32 << 10, cpus=[cpu.cpu]) for cpu in topology.cpus]
    found = topology.model_copy(update={"caches": tiny})  # so that a small working set is DRAM's
    for module in (machine, topology_module):
        monkeypatch.setattr(module, "read_topology", lambda root=None: found)
    out = str(tmp_path / "m.json")
    short = ["--threads", "1", "--sizes", "8K,16K,32K,256K,512K,1M", "--no-cold", "--time-budget", "20"]
    done = CliRunner().invoke(app, ["bandwidth", *short, "--json", out])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["plan", "mobilellm-125m", "--machine", out, "--budget", "1000s", "--json"])
    assert done.exit_code == 0, done.output
    plan = json.loads(done.output)
    assert not plan["published"]
    assert not plan["estimated"]
    assert all(choice["ms"] > 0 and choice["missing"] is None for choice in plan["choices"])
    assert plan["deepest"]["loops"] == 8
    written = MachineFile.read(tmp_path / "m.json")
    assert written.topology == found
    assert written.name == this_machine().name


def test_the_time_ends_the_probes(small):
    steps = []
    assert measure_costs([1], lambda step, done: steps.append(step), seconds=0) is None
    assert steps == ["making blocks"]


def test_every_cost_is_measured(small, monkeypatch):
    """The figures mean nothing here, but each must be there and in its bounds."""
    monkeypatch.setattr(calibrate, "ROUNDS", 1)
    steps = []
    costs = measure_costs([2], lambda step, done: steps.append(done))
    assert steps == sorted(steps)
    assert 0 <= steps[0] <= steps[-1] < 1
    assert costs.compute_gbps > 0
    assert costs.resident_gbps > 0
    assert set(costs.scheme_gbps) == {"int4-symmetric", "int8", "none"}
    assert set(costs.region_us) == set(costs.application_us) == {1, 2}
    assert not costs.estimated
    assert None not in (costs.kernels, costs.token_us, costs.attention_ns, costs.kv_page_us, costs.overlap)
    assert type(costs).model_validate(costs.model_dump()) == costs
