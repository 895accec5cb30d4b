"""Streaming modes: what they are called, that they change no result, and what a calibration leaves behind."""

import json

import pytest
from builders import packed_model, same_bits, write_engine

from mobileloop.errors import MobileloopError
from mobileloop.runtimes import open_session, streaming
from mobileloop.runtimes.streaming import Streaming
from mobileloop.spec.schedule import Schedule

TOKENS = [3, 66, 0, 17, 17, 42]


@pytest.fixture
def looped(tmp_path):
    path = tmp_path / "looped.safetensors"
    checkpoint, packed = packed_model(schedule=Schedule.immediate(3, 3), quantization="int4")
    write_engine(path, checkpoint, packed)
    return path


@pytest.fixture
def remembers(monkeypatch, tmp_path):
    """A cache folder of its own; small models are calibrated too, for a short time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(streaming, "SMALLEST_BYTES", 0)
    monkeypatch.setattr("mobileloop.runtimes.engine.CALIBRATION_SECONDS", 0.01)
    return tmp_path / "cache" / "mobileloop" / "streaming.json"


def decoded(path, **options):
    session = open_session(path, **options)
    logits = [session.decode(token) for token in TOKENS]
    session.close()
    return logits


@pytest.mark.parametrize("text", ["off", "prefetch", "core:1", "core:12", "auto"])
def test_names_read_back(text):
    assert str(Streaming.parse(text)) == text
    assert Streaming.parse("core") == Streaming("core", 1)


@pytest.mark.parametrize("text", ["", "on", "core:0", "core:", "core:1000", "core:-1", "prefetch:2", "OFF"])
def test_other_names_are_refused(text):
    with pytest.raises(MobileloopError, match="streaming mode"):
        Streaming.parse(text)


@pytest.mark.parametrize("stream", ["prefetch", "core", "core:2", "auto"])
def test_no_mode_changes_a_bit(looped, remembers, stream):
    expected = decoded(looped, threads=1)
    for got, want in zip(decoded(looped, threads=3, stream=stream), expected, strict=True):
        assert same_bits(got, want)


def test_streaming_threads_leave_one_to_compute(looped):
    with pytest.raises(MobileloopError, match="of 2 threads, 2 are to stream"):
        open_session(looped, threads=2, stream="core:2")


def test_auto_calibrates_once_and_remembers(looped, remembers, monkeypatch):
    first = open_session(looped, threads=2, stream="auto")
    held = json.loads(remembers.read_text())
    assert list(held.values()) == [first.details()["stream"]]
    key = next(iter(held))
    remembers.write_text(json.dumps({key: "core:1"}))
    assert open_session(looped, threads=2, stream="auto").details()["stream"] == "core:1"
    other = open_session(looped, threads=2, loops=2, stream="auto")  # another loop count is another question
    assert len(json.loads(remembers.read_text())) == 2
    assert other.position == 0


@pytest.mark.parametrize(
    "damage", ["", "[]", "{", '{"KEY": 7}', '{"KEY": "faster"}', '{"KEY": "auto"}', '{"KEY": "core:9"}', "[" * 100_000]
)
def test_a_damaged_memory_is_forgotten(looped, remembers, damage):
    open_session(looped, threads=1, stream="auto")
    key = next(iter(json.loads(remembers.read_text())))
    remembers.write_text(damage.replace("KEY", key))
    assert open_session(looped, threads=1, stream="auto").details()["stream"] in ("off", "prefetch")
    assert set(json.loads(remembers.read_text())) == {key}


def test_a_memory_that_cannot_be_written_is_done_without(looped, remembers):
    remembers.parent.parent.write_text("a file where the folder should be")
    assert open_session(looped, threads=1, stream="auto").details()["stream"] in ("off", "prefetch")


def test_nothing_is_calibrated_where_nothing_is_streamed(looped, remembers, monkeypatch):
    assert open_session(looped, loops=1, stream="auto").details()["stream"] == "off"
    monkeypatch.setattr(streaming, "SMALLEST_BYTES", 1 << 40)
    assert open_session(looped, stream="auto").details()["stream"] == "off"
    assert not remembers.exists()
