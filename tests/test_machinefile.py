import json

import pytest

from mobileloop.errors import MobileloopError
from mobileloop_bench.ladder import Ladder, Step
from mobileloop_bench.machine import Cache, Machine
from mobileloop_bench.machinefile import MachineFile


def board() -> MachineFile:
    steps = [
        Step(level="DRAM", threads=1, read_gbps=6),
        Step(level="L2", threads=1, up_to_bytes=1 << 19, read_gbps=20),
        Step(level="DRAM", threads=4, read_gbps=10),
    ]
    caches = [Cache(level=2, kind="unified", size_bytes=1 << 19, instances=4, shared_by=1)]
    return MachineFile(name="a board", machine=Machine(caches=caches), ladder=Ladder(steps=steps))


def test_a_machine_file_round_trips(tmp_path):
    path = tmp_path / "board.json"
    board().write(path)
    assert json.loads(path.read_text())["schema"] == "mobileloop.machine/1"
    found = MachineFile.read(path)
    assert found == board()
    assert [step.level for step in found.ladder.steps_of(1)] == ["L2", "DRAM"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data["machine"]["caches"][0].update(size_bytes=-1), "machine.caches.0.size_bytes"),
        (lambda data: data["ladder"]["steps"][0].update(read_gbps=0), "ladder.steps.0.read_gbps"),
        (lambda data: data.update(schema="mobileloop.machine/2"), "upgrade mobileloop"),
        (lambda data: data.update(schema="mobileloop.bench/1"), "its schema is not mobileloop.machine"),
    ],
)
def test_bad_machine_files_are_one_sentence(change, said, tmp_path):
    data = json.loads(board().to_json())
    change(data)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(MobileloopError) as raised:
        MachineFile.read(path)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
