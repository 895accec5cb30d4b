import errno
import json
import os
from pathlib import Path

import pytest
from builders import TINY, packed_model, write_engine

from mobileloop.artifact import FORMAT_VERSION, ArtifactInfo, check_tokens, runtime_of
from mobileloop.errors import MobileloopError
from mobileloop.files import check_output, text_sha256, written_whole
from mobileloop.spec.schedule import Schedule


@pytest.fixture
def info():
    checkpoint, packed = packed_model(schedule=Schedule.immediate(3, 2), quantization="int8")
    return ArtifactInfo.describe(checkpoint, packed, 64, 16)


def leftovers(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def half_written(target, error):
    with written_whole(target) as temporary:
        temporary.write_bytes(b"half")
        raise error


# -- written_whole ---------------------------------------------------------------------------------


def test_the_file_appears_only_when_complete(tmp_path):
    target = tmp_path / "model.safetensors"
    with written_whole(target) as temporary:
        temporary.write_bytes(b"new")
        assert not target.exists()
        assert temporary.parent == tmp_path
    assert target.read_bytes() == b"new"
    assert leftovers(tmp_path) == ["model.safetensors"]
    mask = os.umask(0)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("error", [ValueError("boom"), KeyboardInterrupt(), SystemExit(1), MobileloopError("no")])
def test_an_interrupted_write_keeps_the_old_file(tmp_path, error):
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"old")
    with pytest.raises(type(error)):
        half_written(target, error)
    assert target.read_bytes() == b"old"
    assert leftovers(tmp_path) == ["model.safetensors"]


def test_a_full_disk_is_one_sentence(tmp_path):
    target = tmp_path / "model.safetensors"
    with pytest.raises(MobileloopError, match="No space left on device"):
        half_written(target, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert leftovers(tmp_path) == []


def test_a_disk_that_fills_up_during_export(tmp_path, monkeypatch):
    checkpoint, packed = packed_model()
    real_open = Path.open
    written = 0

    def full_after_a_while(self, mode="r", *args, **kwargs):
        stream = real_open(self, mode, *args, **kwargs)
        if self.suffix != ".part":
            return stream

        class Full:
            def __enter__(self):
                return self

            def __exit__(self, *details):
                stream.close()

            def write(self, data):
                nonlocal written
                written += len(data)
                if written > 50_000:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return stream.write(data)

            def flush(self):
                stream.flush()

        return Full()

    monkeypatch.setattr(Path, "open", full_after_a_while)
    with pytest.raises(MobileloopError, match="No space left"):
        write_engine(tmp_path / "model.safetensors", checkpoint, packed)
    assert written > 50_000
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_dev_full(tmp_path):
    with (
        pytest.raises(MobileloopError, match="No space left"),
        written_whole(tmp_path / "x.onnx"),
        open("/dev/full", "wb") as stream,
    ):
        stream.write(b"x" * 100_000)
    assert leftovers(tmp_path) == []


def test_a_missing_folder_and_a_folder_in_the_way(tmp_path):
    with (
        pytest.raises(MobileloopError, match=r"the folder .*nowhere does not exist"),
        written_whole(tmp_path / "nowhere" / "x"),
    ):
        pass
    (tmp_path / "taken").mkdir()
    taken = tmp_path / "taken"
    with pytest.raises(MobileloopError, match="is a folder or a device"), written_whole(taken) as temporary:
        temporary.write_bytes(b"x")
    assert leftovers(tmp_path) == ["taken"]


# -- metadata --------------------------------------------------------------------------------------


def test_round_trip(info):
    assert ArtifactInfo.parse(json.loads(info.model_dump_json()), "x") == info


def test_describe_bounds_the_context():
    checkpoint, packed = packed_model()
    for context in (0, 513):
        with pytest.raises(MobileloopError, match=f"context {context} is outside 1-512"):
            ArtifactInfo.describe(checkpoint, packed, context, 16)


def test_a_newer_format_is_refused_before_anything_else():
    with pytest.raises(MobileloopError, match=f"format version {FORMAT_VERSION + 1}.*upgrade mobileloop"):
        ArtifactInfo.parse({"format_version": FORMAT_VERSION + 1, "unknown": 1}, "x.pte")


@pytest.mark.parametrize("data", [None, [], 3, "text", {}, {"format_version": "1"}])
def test_metadata_that_is_no_metadata(data):
    with pytest.raises(MobileloopError, match=r"the metadata of x\.pte is not valid"):
        ArtifactInfo.parse(data, "x.pte")


def change(data, path, value):
    data = json.loads(json.dumps(data))
    at = data
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("context",), 0, "context"),
        (("context",), "many", "context"),
        (("kv_bits",), 24, "kv_bits is 24"),
        (("costs", "block_bytes"), [1], "costs name 1 blocks"),
        (("config", "num_heads"), 5, "num_heads"),
        (("config", "hidden_size"), -1, "hidden_size"),
        (("config", "extra"), 1, "extra"),
        (("schedule", "stages"), [], "stages"),
        (("schedule", "stages", 0, "blocks"), [7], "names block 7"),
        (("schedule", "stages", 0, "noise"), True, "cannot run yet"),
        (("schedule", "stages", 0, "loops"), 99, "loops"),
    ],
)
def test_corrupted_metadata_names_the_field(info, path, value, words):
    with pytest.raises(MobileloopError, match=words):
        ArtifactInfo.parse(change(info.model_dump(mode="json"), path, value), "x.pte")


def test_every_missing_field_is_named(info):
    data = info.model_dump(mode="json")
    for name in data:
        if name in ("group", "kv_bits", "tokenizer", "notes", "calibration"):
            continue
        with pytest.raises(MobileloopError, match=name):
            ArtifactInfo.parse({key: value for key, value in data.items() if key != name}, "x.pte")


def test_check_tokens(info):
    check_tokens(info, 0, 64)
    with pytest.raises(MobileloopError, match="no tokens"):
        check_tokens(info, 0, 0)
    with pytest.raises(MobileloopError, match="65 tokens do not fit the context of 64"):
        check_tokens(info, 60, 5)


def test_runtime_of(tmp_path):
    for suffix, runtime in ((".safetensors", "engine"), (".pte", "executorch"), (".onnx", "onnx")):
        path = tmp_path / f"x{suffix}"
        with pytest.raises(MobileloopError, match="does not exist"):
            runtime_of(path)
        path.touch()
        assert runtime_of(path) == runtime
    with pytest.raises(MobileloopError, match="no known suffix"):
        runtime_of(tmp_path / "x.bin")


def test_hash_and_names(info):
    assert text_sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert info.config.name == TINY.name
    assert info.source_sha256 == "random"


def test_an_output_that_is_an_input_is_refused(tmp_path):
    source, other, folder = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "source"
    folder.mkdir()
    for path in (source, other, folder / "model.safetensors"):
        path.write_text("old")
    (tmp_path / "link.json").symlink_to(source)
    for out in (source, tmp_path / "link.json", folder / ".." / "a.json"):
        with pytest.raises(MobileloopError, match="is an input of this command and would be overwritten; choose ano"):
            check_output(out, (None, other, str(source)))
    with pytest.raises(MobileloopError, match=r"belongs to the input .*source and would be overwritten"):
        check_output(folder / "model.safetensors", (folder,))
    check_output(other, (source, folder, "a-preset"))
    check_output(folder / "new.safetensors", (folder,))
