"""Pickled checkpoints: read on request, in a child process, and those that ask for more than tensors refused."""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import TINY, write_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from mobileloop.checkpoints import pickled, unpickle
from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError
from mobileloop.files import cache_path


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return load_file(write_folder(tmp_path_factory.mktemp("weights"), random_model(TINY)) / "model.safetensors")


@pytest.fixture
def folder(tmp_path):
    """A folder with a config and no weights."""
    made = write_folder(tmp_path / "My-Model", random_model(TINY))
    (made / "model.safetensors").unlink()
    return made


@pytest.fixture
def forked(monkeypatch):
    """The child process without the seconds that importing PyTorch takes: this one, forked, behind the same doors."""

    def run(command, **_):
        out = Path(command[-1]).parent / "answer"
        child = os.fork()
        if child == 0:
            try:
                out = os.open(out, os.O_WRONLY | os.O_CREAT)
                os.write(out, json.dumps(unpickle.main(*command[-2:])).encode())
            finally:
                os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return subprocess.CompletedProcess(command, code, out.read_bytes(), b"")

    monkeypatch.setattr(pickled.subprocess, "run", run)


def load(folder):
    return load_checkpoint(str(folder), weights_only_bin=True)


def save(folder, held, name="pytorch_model.bin", zipped=True):
    torch.save(held, folder / name, _use_new_zipfile_serialization=zipped)
    return folder


def check_same(folder, shown=None):
    original, loaded = random_model(TINY), load(folder)
    assert set(loaded.tensors) == set(original.tensors)
    assert all(np.array_equal(loaded.tensors[name], original.tensors[name]) for name in original.tensors)
    assert (loaded.config.name, loaded.source) == ("My-Model", str(folder))
    return loaded


def check_refused(folder, *words):
    with pytest.raises(MobileloopError) as error:
        load(folder)
    said = str(error.value)
    assert "\n" not in said
    assert len(said) < 400
    assert "pytorch_model.bin" in said or "My-Model" in said
    for word in words:
        assert word in said, said
    made = cache_path("weights-only-bin")
    assert not made.exists() or not list(made.iterdir())
    return said


# -- what works ------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_both_formats_of_pytorch(folder, weights, zipped):
    loaded = check_same(save(folder, weights, zipped=zipped))
    assert loaded.notes[0] == "the weights are converted from pytorch_model.bin"


def test_the_flag_is_named_where_it_is_missing(folder, weights):
    save(folder, weights)
    with pytest.raises(MobileloopError, match=r"pytorch_model\.bin.*--weights-only-bin"):
        load_checkpoint(str(folder))


def test_safetensors_come_first(folder, weights):
    save(folder, "no weights at all")
    write_folder(folder, random_model(TINY))
    assert "weights beside the model are not read: pytorch_model.bin" in check_same(folder).notes


def test_it_is_converted_once(forked, folder, weights, monkeypatch):
    save(folder, weights)
    first = load(folder)
    copy = shutil.copytree(folder, folder.parent / "copy")
    monkeypatch.setattr(pickled, "_run", lambda *_: pytest.fail("the child process was started again"))
    assert load(folder).sha256 == load(copy).sha256 == first.sha256
    assert load(copy).config.name == "copy"


def test_notes_are_kept_with_what_was_converted(forked, folder, weights):
    save(folder, {"state_dict": weights, "epoch": 3})
    assert load(folder).notes == load(folder).notes
    assert any("epoch" in note for note in load(folder).notes)


def test_shards(forked, folder, weights):
    names = [f"pytorch_model-{number:05}-of-00003.bin" for number in (1, 2, 3)]
    weight_map = {key: names[place % 3] for place, key in enumerate(weights)}
    for name in names:
        save(folder, {key: weights[key] for key in weights if weight_map[key] == name}, name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    check_same(folder)
    (folder / names[1]).unlink()
    with pytest.raises(MobileloopError, match=f"lacks the shard {names[1]}"):
        load(folder)


def test_an_index_of_one_shard(forked, folder, weights):
    save(folder, weights, "pytorch_model-00001-of-00001.bin")
    index = {"weight_map": dict.fromkeys(weights, "pytorch_model-00001-of-00001.bin")}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    check_same(folder)


@pytest.mark.parametrize("shard", ["../evil.bin", "/etc/passwd", "a/b.bin", 3, None, "x\n.bin", ""])
def test_an_index_that_leads_elsewhere(folder, weights, shard):
    save(folder, weights, "pytorch_model-00001-of-00002.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    check_refused(folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": "x"}])
def test_an_index_without_shards(folder, weights, index):
    save(folder, weights, "pytorch_model-00001-of-00002.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    check_refused(folder, "weight_map")


def test_pickles_without_an_index(folder, weights):
    save(folder, weights, "pytorch_model-00001-of-00002.bin")
    check_refused(folder, "pytorch_model-00001-of-00002.bin")


@pytest.mark.parametrize("key", unpickle.NESTED)
def test_weights_of_a_training_program(forked, folder, weights, key):
    save(folder, {key: weights, "epoch": 3, "optimizer": {"state": {}}})
    assert "epoch, optimizer" in check_same(folder).notes[1]


def test_parameters_views_and_tied_tensors(forked, folder, weights):
    key = "model.layers.0.mlp.gate_proj.weight"
    held = OrderedDict((name, torch.nn.Parameter(tensor)) for name, tensor in weights.items())
    whole = torch.cat([weights[key], weights[key]])
    held[key] = whole[weights[key].shape[0] :]  # half of a storage
    other = "model.layers.0.mlp.up_proj.weight"
    held[other] = weights[other].t().contiguous().t()  # columns first
    held["lm_head.weight"] = held["model.embed_tokens.weight"]
    check_same(save(folder, held))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types(forked, folder, weights, dtype):
    loaded = load(save(folder, {key: tensor.to(dtype) for key, tensor in weights.items()}))
    expected = weights["model.norm.weight"].to(dtype).to(torch.float32).numpy()
    assert np.array_equal(loaded.tensors["final_norm"], expected)


def test_what_is_written_is_what_safetensors_reads(tmp_path):
    held = {
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "wide": torch.arange(6, dtype=torch.int64).reshape(2, 3).t(),
        "flags": torch.tensor([True, False]),
        "brain": torch.linspace(0, 1, 5, dtype=torch.bfloat16),
        "stretched": torch.ones(3, 1).expand(3, 4),
        "é\n": torch.ones(1),
    }
    out = tmp_path / "out.safetensors"
    with out.open("wb") as stream:
        source = tmp_path / "x.bin"
        torch.save(held, source)
        assert unpickle.convert(str(source), source.stat().st_size, stream) == []
    back = load_file(out)
    assert set(back) == set(held)
    for name, tensor in held.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


# -- files that ask for more -----------------------------------------------------------------------


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def evil(tmp_path):
    """What a file may try, by name; each would leave the file `happened`."""
    happened = tmp_path / "happened"
    return happened, {
        "os.system": Calls(os.system, f"touch {happened}"),
        "eval": Calls(builtins.eval, f"open({str(happened)!r}, 'w')"),
        "exec": Calls(builtins.exec, f"open({str(happened)!r}, 'w')"),
        "open": Calls(open, str(happened), "w"),
        "Popen": Calls(subprocess.Popen, ["touch", str(happened)]),
        "write_text": Calls(Path.write_text, happened, "x"),
        "getattr": Calls(getattr, Path, "write_text"),
        "import": Calls(builtins.__import__, "antigravity"),
        "socket": Calls(socket.create_connection, ("127.0.0.1", 9)),
        "load": Calls(torch.load, str(happened)),
        "loads": Calls(pickle.loads, pickle.dumps(Calls(os.system, f"touch {happened}"))),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("trick", list(evil(Path("/"))[1]))
def test_a_file_that_calls_something(forked, folder, weights, tmp_path, trick, zipped):
    happened, tricks = evil(tmp_path)
    save(folder, {**weights, "extra": tricks[trick]}, zipped=zipped)
    check_refused(folder, "it is refused")
    assert not happened.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_that_calls_something_in_the_real_child(folder, weights, tmp_path, zipped):
    happened, tricks = evil(tmp_path)
    save(folder, {**weights, "extra": tricks["os.system"]}, zipped=zipped)
    check_refused(folder, "system when it is opened", "it is refused")
    assert not happened.exists()


def test_the_sentence_names_what_it_asked_for(folder, tmp_path):
    save(folder, Calls(os.system, f"touch {tmp_path / 'happened'}"))
    assert "system when it is opened" in check_refused(folder)
    assert not (tmp_path / "happened").exists()


def test_a_bare_pickle(forked, folder, tmp_path):
    happened, tricks = evil(tmp_path)
    for trick in tricks.values():
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(trick))
        check_refused(folder)
    assert not happened.exists()


def test_code_in_the_opcodes_of_a_pickle(forked, folder, tmp_path):
    happened = tmp_path / "happened"
    order = f"cposix\nsystem\n(S'touch {happened}'\ntR.".encode()
    (folder / "pytorch_model.bin").write_bytes(order)
    check_refused(folder)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + order)
        archive.writestr("archive/version", "3")
        archive.writestr("archive/byteorder", "little")
    (folder / "pytorch_model.bin").write_bytes(buffer.getvalue())
    check_refused(folder, "posix.system")
    assert not happened.exists()


# -- files that are damaged, or hold something else ------------------------------------------------


def quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ([1, 2], "a list"),
        (torch.ones(3), "a Tensor"),
        ("text", "a str"),
        ({}, "no tensors"),
        ({"a": 1}, "'a', a int"),
        ({"a": None}, "'a', a NoneType"),
        ({3: torch.ones(1)}, "3"),
        ({"__metadata__": torch.ones(1)}, "__metadata__"),
        ({"a": {"b": torch.ones(1)}}, "'a', a dict"),
        ({"model": {"a": torch.ones(1)}, "state_dict": {"a": torch.ones(1)}}, "state_dict, model"),
        ({"a": torch.ones(2, 2).to_sparse()}, "a "),
        ({"a": torch.ones(1, dtype=torch.complex64)}, "complex64"),
        ({"a": quantized()}, "a "),
        ({"a": torch.ones(1, device="meta")}, "a "),
        ({"a": torch.ones(1).expand(10**7)}, "larger than itself"),
        ({"a": torch.ones(1).expand(10**15)}, "larger than itself"),
        ({f"t{n}": torch.ones(1).expand(10**5) for n in range(1000)}, "larger than itself"),
        ({"a\x1b[31m\nb" * 50: 1}, "\\x1b"),
    ],
)
def test_what_is_no_weights(forked, folder, held, words):
    check_refused(save(folder, held), words)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_cut_short(forked, folder, weights, zipped):
    whole = (save(folder, weights, zipped=zipped) / "pytorch_model.bin").read_bytes()
    for share in (0.0, 0.001, 0.3, 0.9, 0.9999):
        (folder / "pytorch_model.bin").write_bytes(whole[: int(share * len(whole))])
        check_refused(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    zipped=st.booleans(),
    changes=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_files_never_escape_as_other_errors(forked, folder, zipped, changes):
    path = save(folder, {"weight": torch.ones(3), "other": torch.ones(2, 2)}, zipped=zipped) / "pytorch_model.bin"
    damaged = bytearray(path.read_bytes())
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    path.write_bytes(damaged)
    with pytest.raises(MobileloopError):  # read or not, it is no whole model
        load(folder)


def test_not_pytorch_at_all(forked, folder):
    for content in (b"nonsense", b"\x80\x02", b"PK\x03\x04", bytes(1000), b"\x93NUMPY", struct.pack("<Q", 2) + b"{}"):
        (folder / "pytorch_model.bin").write_bytes(content)
        check_refused(folder)


def test_a_pointer_of_git_lfs(forked, folder):
    (folder / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    check_refused(folder)


def test_a_compressed_archive(forked, folder, weights):
    path = save(folder, weights) / "pytorch_model.bin"
    with zipfile.ZipFile(path) as archive:
        held = {one.filename: archive.read(one) for one in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in held.items():
            archive.writestr(name, content)
    check_refused(folder, "compressed archive")


def test_a_script_of_torch(forked, folder):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(folder / "pytorch_model.bin"))
    check_refused(folder)


def test_a_pickle_that_would_fill_the_memory(folder):
    # A list that is doubled forty times over by the memo of the pickle: small in the file, and in no memory.
    bomb = b"\x80\x02]q\x00X\x01\x00\x00\x00aa" + b"".join(
        b"]q" + bytes([n]) + b"(" + (b"h" + bytes([n - 1])) * 200 + b"e" for n in range(1, 9)
    )
    (folder / "pytorch_model.bin").write_bytes(bomb + b".")
    check_refused(folder)


def test_a_folder_in_the_place_of_the_file(forked, folder):
    (folder / "pytorch_model.bin").mkdir()
    check_refused(folder)


def test_without_pytorch(folder, weights, monkeypatch):
    save(folder, weights)
    monkeypatch.setattr(pickled, "find_spec", lambda name: None)
    check_refused_words = "--weights-only-bin needs PyTorch"
    with pytest.raises(MobileloopError, match=check_refused_words):
        load(folder)


# -- the doors -------------------------------------------------------------------------------------


def child(script):
    code = f"from mobileloop.checkpoints import unpickle\nimport os, socket, subprocess, sys, torch\n{script}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    "call", ["socket.socket()", "os.fork()", "os.execv('/bin/true', ['true'])", "subprocess.run(['true'])"]
)
@pytest.mark.parametrize("door", ["unpickle.forbid_calls()", "unpickle.watch()"])
def test_a_door_holds_alone(door, call):
    done = child(f"{door}\ntry:\n    {call}\nexcept OSError as error:\n    print(type(error).__name__)")
    assert done.stdout == "PermissionError\n", done.stderr


def test_files_are_read_and_not_written(tmp_path):
    path = tmp_path / "file"
    path.write_text("kept")
    tries = (
        f"open({str(path)!r}, 'w')",
        f"os.remove({str(path)!r})",
        f"os.rename({str(path)!r}, 'x')",
        "os.system('true')",
    )
    for one in tries:
        done = child(
            f"unpickle.watch()\ntry:\n    {one}\nexcept PermissionError:\n    print(len(open({str(path)!r}).read()))"
        )
        assert done.stdout == "4\n", done.stderr
    assert path.read_text() == "kept"


def test_memory_time_and_sizes_are_bounded(tmp_path):
    most = "import mmap\nunpickle.limit({})\nmmap.mmap(-1, 3 << 30)\nprint('mapped')"
    assert "Cannot allocate memory" in child(most.format(0)).stderr
    assert child(most.format(1 << 30)).stdout == "mapped\n"
    told = child(
        "import resource as r\nunpickle.limit(0)\nprint(r.getrlimit(r.RLIMIT_CPU), r.getrlimit(r.RLIMIT_CORE))"
    )
    assert told.stdout == "(60, 60) (0, 0)\n"
    grown = child(f"f = open({str(tmp_path / 'f')!r}, 'wb')\nunpickle.limit(0)\nf.write(bytes(80 << 20)); f.flush()")
    assert "File too large" in grown.stderr


def test_the_child_sees_nothing_of_the_users_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("https_proxy", "http://proxy")
    found = pickled._environment(str(tmp_path))
    assert "secret" not in found.values()
    assert not [name for name in found if "proxy" in name.lower() or name == "HF_TOKEN"]
    assert found["HOME"] == str(tmp_path)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", "more time"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended with -11"),
        ("raise SystemExit(3)", "ended with 3"),
        ("print('no answer')", "ended with 0"),
        ("print([1])", "ended with 0"),
        ("print('{}')", "ended with 0"),
        ("raise ImportError('no torch here')", "no torch here"),
    ],
)
def test_a_child_that_breaks(folder, weights, monkeypatch, tmp_path, script, words):
    (tmp_path / "broken_child.py").write_text(script)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(pickled, "_CHILD", "broken_child")
    check_refused(save(folder, weights), words)


def test_a_name_that_is_not_utf8(folder, weights):
    odd = folder.rename(os.fsdecode(os.fsencode(folder.parent) + b"/m\xe8 (1)\n"))
    loaded = load(save(odd, weights))
    assert loaded.config.name == "m\\xe8 (1)\\n"
    with safe_open(next(cache_path("weights-only-bin").iterdir()), framework="np") as stored:
        assert set(stored.keys()) == set(weights)
