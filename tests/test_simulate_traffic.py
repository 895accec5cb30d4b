"""Simulated DRAM traffic; what needs QEMU and a cross compiler, or valgrind, is skipped where they are missing."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mobileloop.cli import app
from mobileloop.errors import MobileloopError
from mobileloop_bench.machine.facts import Cache as MachineCache
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.machine.file import MachineFile
from mobileloop_bench.simulate.arm.misses import write_artifact
from mobileloop_bench.simulate.cachegrind import _geometry
from mobileloop_bench.simulate.caches import Cache
from mobileloop_bench.simulate.traffic import (
    SIMULATORS,
    Hierarchy,
    Simulation,
    hierarchy_of,
    open_simulator,
    simulate,
    verdict,
)

FOLDER = Path(__file__).resolve().parents[1] / "build" / "arm-tests"  # test_simulate_arm.py builds the same
KIB, MIB = 1 << 10, 1 << 20


def cache(level, size, shared_by=1, instances=1, kind="unified"):
    return MachineCache(level=level, kind=kind, size_bytes=size, shared_by=shared_by, instances=instances)


def machine(*caches, name="a board"):
    return MachineFile(name=name, machine=Machine(caches=list(caches)))


ROOMY = machine(cache(1, 64 * KIB, kind="data"), cache(2, 512 * KIB), cache(3, 3 * MIB, shared_by=4), name="roomy")
SMALL = machine(cache(1, 64 * KIB, kind="data"), cache(2, 512 * KIB), cache(3, 1 * MIB, shared_by=4), name="small")


@pytest.fixture(scope="module", params=SIMULATORS)
def simulator(request):
    try:
        return open_simulator(request.param, FOLDER)
    except MobileloopError as error:
        if "was not found" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """Three blocks of 2.2 MB, up to four times in a row each, behind a tiny head."""
    path = tmp_path_factory.mktemp("simulate") / "three-blocks.safetensors"
    return path, write_artifact(path, "immediate", 3, vocab_size=64)


# -- machine files -------------------------------------------------------------------------------------


def test_the_hierarchy_of_a_machine():
    found = hierarchy_of(ROOMY)
    assert found.l1 == Cache(64 * KIB, 4)
    assert found.l2 == Cache(512 * KIB, 8)
    assert found.last == Cache(3 * MIB, 16, None)
    assert found.assumptions == ("L1 in 4 ways", "L2 in 8 ways", "L3 in 16 ways")
    assert found.memory_side == ("L3", found.last)


def test_what_a_machine_hides_is_assumed_and_told():
    found = hierarchy_of(machine(cache(2, 12 * MIB, 6), cache(2, 1 * MIB), cache(4, 8 * MIB)))
    assert (found.l2, found.last) == (Cache(12 * MIB, 8, 6), None)
    assert found.memory_side[0] == "L2"
    assert {"L4 is left out", "the largest of 2 kinds of L2", "L1 of 64 KiB in 4 ways"} <= set(found.assumptions)
    with pytest.raises(MobileloopError, match="names no L2 and no L3"):
        hierarchy_of(machine(cache(1, 64 * KIB)))


@pytest.mark.parametrize(
    ("given", "ways"),
    [(Cache(8 * MIB, 16), 16), (Cache(12 * MIB, 16), 24), (Cache(12 * MIB, 12), 12), (Cache(512 * KIB, 8), 8)],
)
def test_cachegrind_gets_a_power_of_two_of_sets(given, ways):
    size, found, line = map(int, _geometry(given).split(","))
    assert (size, found, line) == (given.size_bytes, ways, 64)
    sets = size // line // found
    assert sets & (sets - 1) == 0


# -- the simulators ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "again"), [(MIB // 2, 0), (4 * MIB, 1)])
def test_a_stream_of_known_footprint(simulator, size, again):
    caches = Hierarchy(Cache(32 * KIB, 4), None, Cache(2 * MIB, 16, None))
    passes, lines = 4, size // 64 - 1
    found = simulator.stream(size, passes, caches)
    # In order, a buffer beyond the cache is never there when it is asked for again.
    assert found == pytest.approx(again * passes * lines, rel=0.02, abs=0.02 * lines)


def test_loops_add_no_traffic_while_the_block_fits(simulator, artifact):
    path, info = artifact
    found = simulate(path, info, ROOMY, simulator, [1, 4], [1], prefix=2)
    once, looped = found.traffic
    assert (once.resident, looped.resident) == (None, True)
    assert once.dram_bytes == pytest.approx(info.unique_bytes(), rel=0.1)
    assert looped.dram_bytes - once.dram_bytes < 0.02 * (looped.executed_bytes - looped.unique_bytes)
    assert "the block is resident" in verdict(found)


def test_loops_read_again_what_does_not_fit(simulator, artifact):
    path, info = artifact
    found = simulate(path, info, SMALL, simulator, [1, 3], [1], prefix=2)
    once, looped = found.traffic
    assert not looped.resident
    assert looped.dram_bytes == pytest.approx(info.executed_bytes(3), rel=0.1)
    assert once.dram_bytes == pytest.approx(info.unique_bytes(), rel=0.1)
    assert "of the re-read weights come from DRAM again" in verdict(found)


def test_a_bound_is_checked_before_anything_runs(artifact):
    path, info = artifact
    with pytest.raises(MobileloopError, match="9"):
        simulate(path, info, ROOMY, None, [9], [1])


# -- the command ---------------------------------------------------------------------------------------


def said(*words):
    done = CliRunner().invoke(app, ["simulate", *map(str, words)])
    return done.exit_code, done.output


def test_command(simulator, artifact, tmp_path):
    file, out = tmp_path / "roomy.json", tmp_path / "traffic.json"
    ROOMY.write(file)
    name = "qemu" if "QEMU" in simulator.described().upper() else "cachegrind"
    code, text = said(
        artifact[0], "--machine", file, "--loops", "1,2", "--simulator", name, "--context", 2, "--json", out
    )
    assert code == 0, text
    assert "simulated" in text.lower()
    assert "Assumed: L1 in 4 ways" in " ".join(text.split())
    found = Simulation.read(out)
    assert json.loads(out.read_text())["simulated"] is True
    assert [row.loops for row in found.traffic] == [1, 2]


def test_mistakes_are_one_sentence(artifact, tmp_path):
    file = tmp_path / "machine.json"
    ROOMY.write(file)
    data = json.loads(file.read_text())
    data["machine"]["caches"][0]["size_bytes"] = -5
    (tmp_path / "negative.json").write_text(json.dumps(data))
    (tmp_path / "a.onnx").write_bytes(b"")
    path = artifact[0]
    for words, expected in [
        ((path, "--machine", tmp_path / "negative.json"), "machine.caches.0.size_bytes"),
        ((path, "--machine", tmp_path / "none.json"), "none.json"),
        ((path, "--machine", file, "--simulator", "pin"), "the simulator 'pin' is not known"),
        ((path, "--machine", file, "--loops", "x"), "--loops"),
        ((path, "--machine", file, "--context", 1 << 30), f"--context {1 << 30} is outside 0-"),
        ((path, "--machine", file, "--context", -1), "--context -1 is outside 0-"),
        ((tmp_path / "a.onnx", "--machine", file), "no engine artifact"),
    ]:
        code, text = said(*words)
        assert code == 2, text
        assert expected in text
        assert len(text.strip().splitlines()) == 1
