"""Tensors of GGUF files: every type that ggml has, whole and damaged."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileloop.checkpoints import ggml
from mobileloop.checkpoints.ggml import read_tensor, repacked_notes
from mobileloop.errors import MobileloopError
from mobileloop.quant.schemes import QuantTensor

Q = gguf.GGMLQuantizationType
WHERE = Path("model.gguf")
DEQUANTIZED = tuple(kind for kind in gguf.quants._type_traits if kind.name not in ("Q4_0", "Q4_1", "Q8_0"))
UNREADABLE = ("Q8_1", "Q1_0")


def stored(kind, shape, data, name="blk.0.ffn_up.weight"):
    """What GGUFReader gives: `shape` with the rows first here, with the inputs first there."""
    return SimpleNamespace(name=name, tensor_type=kind, shape=np.array(shape[::-1], np.uint64), data=data)


def random_blocks(kind, rows, blocks, seed=0):
    """Any bytes are blocks of some weights; [rows, bytes]."""
    size = GGML_QUANT_SIZES[kind][1]
    return np.random.default_rng(seed).integers(0, 256, (rows, blocks * size), dtype=np.uint8)


@pytest.mark.parametrize("kind", DEQUANTIZED, ids=lambda kind: kind.name)
def test_types_of_the_package_become_floats_whatever_the_chunk(kind, monkeypatch):
    cols = 2 * GGML_QUANT_SIZES[kind][0]
    data = random_blocks(kind, 7, 2)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(data, kind)
    monkeypatch.setattr(ggml, "_CHUNK_VALUES", 3 * cols)  # 3, 3 and 1 rows
    got = read_tensor(WHERE, stored(kind, (7, cols), data))
    assert got.dtype == np.float32
    assert np.array_equal(got, expected, equal_nan=True)


@pytest.mark.parametrize("kind", [Q.Q4_0, Q.Q4_1, Q.Q8_0], ids=lambda kind: kind.name)
def test_types_of_our_schemes_are_kept(kind):
    weights = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    data = gguf.quants.quantize(weights, kind)
    got = read_tensor(WHERE, stored(kind, (5, 64), data))
    assert isinstance(got, QuantTensor)
    assert np.array_equal(got.dequantize(), gguf.quants.dequantize(data, kind))
    vector = read_tensor(WHERE, stored(kind, (64,), data[0]))  # no matrix: no scheme holds it
    assert np.array_equal(vector, gguf.quants.dequantize(data[0], kind))


def test_floats_keep_their_values():
    weights = np.random.default_rng(2).standard_normal((3, 10))
    for kind, dtype in ((Q.F32, np.float32), (Q.F16, np.float16), (Q.F64, np.float64)):
        got = read_tensor(WHERE, stored(kind, (3, 10), weights.astype(dtype)))
        assert got.dtype == np.float32
        assert np.array_equal(got, weights.astype(dtype).astype(np.float32))


def test_q8_k_is_a_scale_and_its_codes():
    codes = np.arange(-128, 128, dtype=np.int8)
    block = np.concatenate([np.array([0.5], "<f4").view(np.uint8), codes.view(np.uint8), np.full(32, 77, np.uint8)])
    got = read_tensor(WHERE, stored(Q.Q8_K, (2, 256), np.stack([block, block])))
    assert np.array_equal(got, np.stack([codes, codes]) * np.float32(0.5))


@pytest.mark.parametrize("kind", [Q.I8, Q.I16, Q.I32, Q.I64], ids=lambda kind: kind.name)
def test_whole_numbers_are_no_weights(kind):
    data = np.ones((2, 4), f"i{GGML_QUANT_SIZES[kind][1]}")
    with pytest.raises(MobileloopError, match=rf"ffn_up\.weight of model\.gguf, of type {kind.name}, holds who"):
        read_tensor(WHERE, stored(kind, (2, 4), data))


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_type_that_nothing_reads_is_named(name):
    kind = Q[name]
    cols = GGML_QUANT_SIZES[kind][0]
    with pytest.raises(MobileloopError, match=f"of type {name}, cannot be dequantized by the installed gguf package"):
        read_tensor(WHERE, stored(kind, (2, cols), random_blocks(kind, 2, 1)))


def test_every_type_is_either_read_or_named():
    """A type that a newer package brings is read by it, or refused by name; none is forgotten here."""
    known = {kind.name for kind in DEQUANTIZED} | {*ggml.KEPT, *ggml.FLOATS, "Q8_K", *UNREADABLE}
    assert {kind.name for kind in Q} - {"I8", "I16", "I32", "I64"} == known


@pytest.mark.parametrize("kind", [Q.Q4_0, Q.Q6_K, Q.F16, Q.F64, Q.Q8_K, Q.NVFP4], ids=lambda kind: kind.name)
@pytest.mark.parametrize("change", [(3, 256), (2, 512), (2, 0), (2, 128), (0,), (2**40, 2**40)], ids=str)
def test_bytes_that_do_not_agree_with_the_shape(kind, change):
    per_block, size = GGML_QUANT_SIZES[kind]
    dtype = {Q.F16: np.float16, Q.F64: np.float64}.get(kind, np.uint8)
    data = np.zeros(2 * 256 // per_block * size, np.uint8).view(dtype).reshape(2, -1)
    with pytest.raises(MobileloopError, match=f"type {kind.name}, has {data.nbytes} bytes, which do not agree with"):
        read_tensor(WHERE, stored(kind, change, data))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(Q)), st.lists(st.integers(0, 600), max_size=3), st.binary(max_size=700), st.text())
def test_no_bytes_and_no_shape_escape_as_other_errors(kind, shape, data, name):
    tensor = stored(kind, shape, np.frombuffer(data, np.uint8), name)
    got = SimpleNamespace(shape=shape)
    with contextlib.suppress(MobileloopError):
        got = read_tensor(WHERE, tensor)
    assert tuple(got.shape) == tuple(shape)


def test_the_note_counts_what_is_packed_again():
    def some(kind, count, shape=(2, 256)):
        return [stored(kind, shape, None)] * count

    assert repacked_notes([*some(Q.Q4_0, 3), *some(Q.F32, 2, (8,)), *some(Q.BF16, 1)]) == ()
    assert repacked_notes(some(Q.Q6_K, 1))[0].startswith("1 Q6_K tensor of the file is dequantized and packed again")
    (note,) = repacked_notes([*some(Q.Q6_K, 2), *some(Q.Q4_K, 32), *some(Q.Q4_0, 4), *some(Q.Q8_0, 1, (32,))])
    assert note.startswith("32 Q4_K, 2 Q6_K and 1 Q8_0 tensors of the file are dequantized and packed again")
