"""Which files of a folder are its weights, under which names, and which folders hold none that can be read."""

import contextlib
import json

import ml_dtypes
import numpy as np
import pytest
import torch
from builders import TINY, write_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError

GOOD, OTHER = random_model(TINY, seed=1), random_model(TINY, seed=2)


def same(folder, original=GOOD):
    """The notes of a folder that holds the weights of `original`."""
    loaded = load_checkpoint(str(folder))
    assert all(np.array_equal(loaded.tensors[name], original.tensors[name]) for name in original.tensors)
    return loaded.notes


BESIDE = ("consolidated", "adapter_model", "optimizer", "model.backup", "model_old", "pytorch_model", "a", "zz")


@pytest.mark.parametrize("name", BESIDE)
def test_model_safetensors_is_the_model_whatever_lies_beside(tmp_path, name):
    folder = write_folder(tmp_path / "m", GOOD)
    beside = load_file(write_folder(tmp_path / "other", OTHER) / "model.safetensors")
    save_file(beside, folder / f"{name}.safetensors")
    assert any(f"{name}.safetensors" in note for note in same(folder))


def test_a_stale_index_beside_the_whole_file_does_not_count(tmp_path):
    folder = write_folder(tmp_path / "m", OTHER, shards=2)
    write_folder(folder, GOOD)
    assert any("model.safetensors.index.json" in note for note in same(folder))


def test_an_index_counts_before_files_that_it_does_not_name(tmp_path):
    folder = write_folder(tmp_path / "m", GOOD, shards=3)
    (write_folder(tmp_path / "o", OTHER) / "model.safetensors").rename(folder / "model-00004-of-00003.safetensors")
    assert any("model-00004-of-00003.safetensors" in note for note in same(folder))


def test_a_tensor_is_taken_from_the_shard_that_the_index_names(tmp_path):
    folder = write_folder(tmp_path / "m", GOOD, shards=2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    first, second = sorted(set(index.values()))
    wrong = next(name for name, shard in index.items() if shard == first)
    save_file({**load_file(folder / second), wrong: np.zeros(64, np.float32)}, folder / second)
    same(folder)


def test_an_index_that_names_a_tensor_in_the_wrong_shard_is_refused(tmp_path):
    folder = write_folder(tmp_path / "m", GOOD, shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = next(s for s in index["weight_map"].values() if s != index["weight_map"][name])
    path.write_text(json.dumps(index))
    with pytest.raises(MobileloopError, match="and it does not"):
        load_checkpoint(str(folder))


def test_one_file_of_another_name_is_taken_and_several_are_listed(tmp_path):
    folder = write_folder(tmp_path / "m", GOOD)
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    same(folder)
    save_file({"x": np.zeros(1, np.float32)}, folder / "more.safetensors")
    with pytest.raises(MobileloopError, match=r"2 \.safetensors files \(more\.safetensors, weights\.safetensors\)"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model.", "a.b."])
def test_a_prefix_before_every_name_is_left_out(tmp_path, prefix):
    folder = write_folder(tmp_path / "m", GOOD)
    tensors = load_file(folder / "model.safetensors")
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    assert any(prefix in note for note in same(folder))


def test_names_without_the_model_before_them(tmp_path):
    folder = write_folder(tmp_path / "m", GOOD)
    tensors = load_file(folder / "model.safetensors")
    save_file({name.removeprefix("model."): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    assert any("lack model." in note for note in same(folder))


def test_two_sets_of_names_are_refused(tmp_path):
    folder = write_folder(tmp_path / "m", GOOD)
    tensors = load_file(folder / "model.safetensors")
    twice = {prefix + name: tensor for name, tensor in tensors.items() for prefix in ("module.", "ema.")}
    save_file(twice, folder / "model.safetensors")
    with pytest.raises(MobileloopError, match="lacks the tensor"):
        load_checkpoint(str(folder))


# -- the head ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tied", "head", "tie", "word"),
    [
        (True, None, True, None),
        (True, "same", True, None),
        (True, "other", False, "stored head is kept"),
        (True, "alone", True, None),
        (False, "other", False, None),
        (False, None, True, "embedding serves as the head"),
    ],
)
def test_a_head_is_tied_or_kept(tmp_path, tied, head, tie, word):
    folder = write_folder(tmp_path / "m", GOOD, tie_word_embeddings=tied)
    tensors = load_file(folder / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    if head:
        tensors["lm_head.weight"] = embedding[::-1].copy() if head == "other" else embedding
    if head == "alone":
        del tensors["model.embed_tokens.weight"]
    save_file(tensors, folder / "model.safetensors")
    loaded = load_checkpoint(str(folder))
    assert loaded.config.tie_embeddings is tie
    assert np.array_equal(loaded.tensors["embedding"], embedding)
    if not tie:
        assert np.array_equal(loaded.tensors["head"], embedding[::-1])
    assert [word in note for note in loaded.notes if "head" in note] == ([True] if word else [])


# -- quantized before -------------------------------------------------------------------------------


def mlx(base, w):
    scales = np.ones((w.shape[0], w.shape[1] // 32), np.float16)
    return {
        f"{base}.weight": np.zeros((w.shape[0], 8), np.uint32),
        f"{base}.scales": scales,
        f"{base}.biases": scales.copy(),
    }


def bitsandbytes(base, w):
    absmax = np.zeros(w.size // 64, np.uint8)
    return {f"{base}.weight": np.zeros((w.size // 2, 1), np.uint8), f"{base}.weight.absmax": absmax}


def bitsandbytes8(base, w):
    return {f"{base}.weight": np.zeros(w.shape, np.int8), f"{base}.SCB": np.ones(w.shape[0], np.float32)}


def gptq(base, w):
    return {
        f"{base}.qweight": np.zeros((w.shape[1] // 8, w.shape[0]), np.int32),
        f"{base}.qzeros": np.zeros((1, w.shape[0] // 8), np.int32),
        f"{base}.scales": np.ones((1, w.shape[0]), np.float16),
    }


def packed(base, w):
    return {
        f"{base}.weight_packed": np.zeros((w.shape[0], 8), np.int32),
        f"{base}.weight_scale": np.ones(1, np.float16),
    }


def fp8(base, w):
    return {
        f"{base}.weight": w.astype(ml_dtypes.float8_e4m3fn),
        f"{base}.weight_scale_inv": np.ones((1, 1), np.float32),
    }


def integers(base, w):
    return {f"{base}.weight": np.zeros(w.shape, np.int8)}


RULES = {
    "MLX": (mlx, {"quantization": {"group_size": 32, "bits": 4}}),
    "bitsandbytes": (bitsandbytes, {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}),
    "8 bits": (bitsandbytes8, {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}),
    "GPTQ": (gptq, {"quantization_config": {"quant_method": "gptq", "bits": 4}}),
    "compressed-tensors": (packed, {"quantization_config": {"quant_method": "compressed-tensors"}}),
    "FP8": (fp8, {"quantization_config": {"quant_method": "fp8"}}),
    "int8": (integers, {"quantization_config": {"quant_method": "quanto"}}),
    "does not name": (integers, {"quantization_config": {"weights": 4}}),
}


def as_torch(tensor):
    if tensor.dtype == ml_dtypes.float8_e4m3fn:
        return torch.from_numpy(tensor.view(np.uint8)).view(torch.float8_e4m3fn)
    return torch.from_numpy(np.ascontiguousarray(tensor))


@pytest.mark.parametrize("said", [True, False], ids=["config says so", "only the tensors tell"])
@pytest.mark.parametrize("method", RULES)
def test_a_folder_that_is_quantized_already(tmp_path, method, said):
    rule, config = RULES[method]
    folder = write_folder(tmp_path / "m", GOOD, **(config if said else {}))
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        inside = tensor.ndim == 2 and "layers" in name
        tensors.update(rule(name.removesuffix(".weight"), tensor) if inside else {name: tensor})
    save_torch({name: as_torch(tensor) for name, tensor in tensors.items()}, folder / "model.safetensors")
    with pytest.raises(MobileloopError, match=r"is quantized already.*take the unquantized checkpoint") as caught:
        load_checkpoint(str(folder))
    if said:
        assert method.split()[0].lower() in str(caught.value).lower() or method in ("8 bits", "int8")


TYPES = [torch.int8, torch.uint8, torch.int32, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "model.embed_tokens.weight"]
)
def test_any_type_is_a_sentence(tmp_path, name, dtype):
    folder = write_folder(tmp_path / "m", GOOD)
    tensors = {key: as_torch(tensor) for key, tensor in load_file(folder / "model.safetensors").items()}
    tensors[name] = torch.zeros(tensors[name].shape).to(dtype)
    save_torch(tensors, folder / "model.safetensors")
    with pytest.raises(MobileloopError, match=name.replace(".", r"\.")):
        load_checkpoint(str(folder))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_never_escape_as_other_errors(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("m")
    write_folder(folder, GOOD)
    path = folder / data.draw(st.sampled_from(["model.safetensors", "config.json"]))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, min(len(raw), 4000) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)
    with contextlib.suppress(MobileloopError):
        load_checkpoint(str(folder))
