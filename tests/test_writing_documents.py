"""Whatever a file holds, reading it gives a document that can be written again, or one sentence."""

import copy
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobileloop.errors import MobileloopError
from mobileloop_bench.machine.facts import Cache, Cluster, Machine
from mobileloop_bench.machine.file import EngineCosts, MachineFile
from mobileloop_bench.machine.ladder import Ladder, Rung, Step
from mobileloop_bench.results.document import Document
from mobileloop_bench.results.result import Result, Sample, StageTime
from mobileloop_bench.results.settings import Settings
from mobileloop_bench.writing import documents
from mobileloop_bench.writing.documents import VersionedDocument

MACHINE = Machine(
    cpu="a processor",
    clusters=[Cluster(cpus=[0, 1], max_mhz=2000)],
    caches=[Cache(level=2, kind="unified", size_bytes=1 << 20, instances=2, shared_by=1)],
    libraries={"numpy": "2.0"},
)
LADDER = Ladder(
    rungs=[Rung(size_bytes=1 << 14, threads=1, read_gbps=60, samples_gbps=[59, 60])],
    steps=[Step(level="DRAM", threads=1, read_gbps=6)],
)
ROW = Result(
    artifact="a.safetensors",
    runtime="engine",
    model="tiny",
    quantization="int4",
    loops=2,
    threads=1,
    phase="decode",
    samples_ms=[1.5, 1.25],
    median_ms=1.375,
    tokens_per_s=727.3,
    unique_bytes=10,
    executed_bytes=20,
    kv_bytes=5,
    read_gbps=0.1,
    valid=False,
    reasons=["fewer than 5 repetitions: 2"],
    stages=[StageTime(stage="0-1", loops=2, median_ms=1.0, loop_ms=[0.6, 0.4])],
)
BENCH = Document(
    machine=MACHINE,
    results=[ROW],
    ladder=LADDER,
    series=[Sample(t_s=0.1, mhz={0: 1900.0}, celsius={"cpu": 40.0})],
    settings=Settings(threads=[1]),
)
BOARD = MachineFile(name="a board", machine=MACHINE, ladder=LADDER, costs=EngineCosts(region_us={1: 1.0}))
EVERY = pytest.mark.parametrize("document", [BENCH, BOARD], ids=lambda document: document.NAME)
FUZZED = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def read(kind: type[VersionedDocument], content: bytes, path: Path) -> str | None:
    """The sentence, or None where it was read."""
    path.write_bytes(content)
    try:
        found = kind.read(path)
    except MobileloopError as error:
        said = str(error)
        assert str(path) in said
        assert said.endswith(".")
        assert said.isprintable(), said
        return said
    found.write(path)
    assert kind.read(path) == found
    return None


@EVERY
def test_cut_off_at_every_byte(document: VersionedDocument, tmp_path: Path) -> None:
    content = document.to_json().encode()
    for length in range(len(content)):
        assert read(type(document), content[:length], tmp_path / "cut.json"), length
    assert read(type(document), content, tmp_path / "whole.json") is None


@EVERY
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'"a":' + b"[" * 40 + b"]" * 40, "more than 32 levels"),
        (b'"a":' + b"[" * 100_000, "is not JSON"),
        (b'"a":' + b'{"a":' * 400 + b"1" + b"}" * 400, "more than 32 levels"),
        (b'"a":1' + b"0" * 19, "more than 64 bits"),
        (b'"a":1' + b"0" * 6000, "more than 64 bits"),
        (b'"a":-1' + b"0" * 18, None),
        (b'"a":1e999', "beyond 1e308"),
        (b'"a":-1e999', "beyond 1e308"),
        (b'"a":NaN', "it holds NaN"),
        (b'"a":Infinity', "it holds Infinity"),
        (b'"a":1,"a":2', "a key twice"),
        (b'"a":{"b":1,"b":1}', "a key twice"),
        (rb'"a":"\ud800"', "is not JSON"),
        (rb'"a":{"\udfff":1}', "is not JSON"),
        (b'"a":"\xff"', "is not text"),
        (rb'"a":"\u0000"', None),
        (b'"a":[1,]', "is not JSON"),
    ],
)
def test_what_json_would_let_through(
    content: bytes, said: str | None, document: VersionedDocument, tmp_path: Path
) -> None:
    whole = document.to_json().encode()
    found = read(type(document), whole[:-1] + b"," + content + b"}", tmp_path / "in.json")
    assert (found is None) == (said is None), found
    assert (said or "") in (found or "")


def places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Every path into a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(one for key, item in inner for one in places(item, (*path, key)))]


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=8)
    | st.just("\x1b[31m\n"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@EVERY
@FUZZED
@given(data=st.data())
def test_a_value_of_any_kind_at_any_place(document: VersionedDocument, tmp_path: Path, data: st.DataObject) -> None:
    changed = json.loads(document.to_json())
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(places(changed)[1:]))
        holder = changed
        for key in path:
            holder = holder[key]
        match data.draw(st.sampled_from(["put", "drop", "rename", "twice"])):
            case "put":
                holder[last] = data.draw(ANY)
            case "drop":
                del holder[last]
            case "rename" if isinstance(holder, dict):
                holder[data.draw(st.text(max_size=6))] = holder.pop(last)
            case "twice" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[last]))
        if len(places(changed)) == 1:
            break
    read(type(document), json.dumps(changed).encode(), tmp_path / "in.json")


@EVERY
@FUZZED
@given(at=st.floats(0, 1), put=st.binary(max_size=6), drop=st.integers(0, 6))
def test_bytes_of_any_kind_at_any_place(
    document: VersionedDocument, tmp_path: Path, at: float, put: bytes, drop: int
) -> None:
    content = document.to_json().encode()
    start = int(at * len(content))
    read(type(document), content[:start] + put + content[start + drop :], tmp_path / "in.json")


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 1 << 20)
    assert "is larger than 1 MiB" in str(read(Document, b" " * ((1 << 20) + 1), tmp_path / "in.json"))


def test_a_folder_and_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(MobileloopError, match="cannot be read: Is a directory"):
        Document.read(tmp_path)
    hidden = tmp_path / "hidden.json"
    hidden.write_text(BENCH.to_json())
    hidden.chmod(0)
    if not os.access(hidden, os.R_OK):
        with pytest.raises(MobileloopError, match="cannot be read: Permission denied"):
            Document.read(hidden)


@EVERY
def test_what_cannot_be_read_back_is_not_written(document: VersionedDocument, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    document.write(path)
    before = path.read_bytes()
    broken = document.model_copy(deep=True)
    broken.machine.cpu = 3
    with pytest.raises(MobileloopError, match=r"was not written: .*machine\.cpu"):
        broken.write(path)
    broken.machine.cpu, broken.machine.max_mhz = None, float("nan")
    with pytest.raises(MobileloopError, match="was not written"):
        broken.write(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["out.json"]
