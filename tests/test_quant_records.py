"""The layout of docs/format.md, checked by a slow unpacker that follows its text and not the packer's code."""

import struct

import numpy as np
import pytest
from builders import TINY
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileloop.checkpoints.random import random_model
from mobileloop.packed import PackedModel
from mobileloop.quant import records
from mobileloop.quant.schemes import SCHEMES

CODE_BYTES = {1: 1024, 2: 128, 3: 128, 4: 256}  # of 8 rows by 32 inputs
SCALE_BYTES = {1: 0, 2: 16, 3: 32, 4: 16}  # of 8 rows by one group
HALF = struct.Struct("<e")


def one_weight(tile, scheme, row, k, group=32):
    """The weight of input `k` (0..group - 1) of row `row` (0..7) of one tile, by the formulas of docs/format.md."""
    codes = CODE_BYTES[scheme] * (group // 32)
    part, k = tile[k // 32 * CODE_BYTES[scheme] :], k % 32
    if scheme == 1:
        return struct.unpack_from("<f", part, 4 * (8 * k + row))[0]
    if scheme == 4:
        code = struct.unpack_from("<b", part, 32 * (k // 4) + 4 * row + k % 4)[0]
        return np.float32(code) * np.float32(HALF.unpack_from(tile, codes + 2 * row)[0])
    byte = part[32 * ((k % 16) // 4) + 4 * row + k % 4]
    code = byte & 15 if k < 16 else byte >> 4
    scale = np.float32(HALF.unpack_from(tile, codes + 2 * row)[0])
    if scheme == 2:
        return np.float32(code - 8) * scale
    return np.float32(code) * scale + np.float32(HALF.unpack_from(tile, codes + 16 + 2 * row)[0])


def tile_bytes(scheme, group=32):
    return CODE_BYTES[scheme] * (group // 32) + SCALE_BYTES[scheme]


def unpack(data, scheme, rows, cols, group=32):
    groups, size = -(-cols // group), tile_bytes(scheme, group)
    out = np.zeros((rows, cols), np.float32)
    for row in range(rows):
        for col in range(cols):
            tile = data[((row // 8) * groups + col // group) * size :][:size]
            out[row, col] = one_weight(tile, scheme, row % 8, col % group, group)
    return out


def read_record(record):
    """Header fields and {role: (scheme, rows, cols, bytes)} of a record."""
    data = bytes(record)
    head = struct.unpack_from("<4s I I I Q 6I 2f 2I", data, 0)
    entries = {}
    for i in range(head[3]):
        role, scheme, rows, cols, offset, size = struct.unpack_from("<4I 2Q", data, 64 + 32 * i)
        entries[role] = (scheme, rows, cols, data[offset : offset + size], offset)
    return head, entries


@pytest.mark.parametrize("name", list(SCHEMES))
@settings(max_examples=12, deadline=None)
@given(st.integers(1, 19), st.integers(1, 2), st.integers(0, 1000))
def test_tiles_hold_every_weight_where_the_format_says(name, rows, groups, seed):
    cols = 32 * groups - (7 if name == "none" else 0)
    values = np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)
    tensor = SCHEMES[name].quantize(values)
    packed = records.pack_matrix(tensor)
    scheme = SCHEMES[name].code
    assert packed.size == -(-rows // 8) * groups * tile_bytes(scheme)
    assert np.array_equal(unpack(bytes(packed), scheme, rows, cols), tensor.dequantize())


@pytest.mark.parametrize("name", ["int4", "int4-symmetric", "int8"])
@pytest.mark.parametrize("group", [64, 128])
@settings(max_examples=5, deadline=None)
@given(st.integers(1, 11), st.integers(1, 2), st.integers(0, 1000))
def test_wider_tiles(name, group, rows, groups, seed):
    values = np.random.default_rng(seed).standard_normal((rows, group * groups)).astype(np.float32)
    tensor = SCHEMES[name].quantize(values, group)
    packed, scheme = records.pack_matrix(tensor), SCHEMES[name].code
    assert packed.size == -(-rows // 8) * groups * tile_bytes(scheme, group)
    assert np.array_equal(unpack(bytes(packed), scheme, rows, values.shape[1], group), tensor.dequantize())


def test_the_lowest_version_that_says_what_a_record_holds():
    checkpoint = random_model(TINY)
    versions = {}
    for group in (32, 64):
        packed = PackedModel.from_checkpoint(checkpoint, "int4", group=group)
        head, entries = read_record(packed.block_record(0))
        versions[group] = head[1]
        schemes = [entries[role][0] for role in range(9)]
        assert [scheme & 0xFFFF for scheme in schemes] == [0, 3, 3, 3, 3, 0, 3, 3, 3]
        held = [0 if group == 32 or role in (0, 5, 8) else 64 for role in range(9)]  # 96 inputs of the down projection
        assert [scheme >> 16 for scheme in schemes] == held
    assert versions == {32: 1, 64: 2}


@pytest.mark.parametrize("name", list(SCHEMES))
def test_padding_rows_are_zero(name):
    tensor = SCHEMES[name].quantize(np.ones((1, 32), np.float32))
    tile = bytes(records.pack_matrix(tensor))
    if name == "none":
        assert all(one_weight(tile, 1, row, k) == 0 for row in range(1, 8) for k in range(32))
    else:
        codes = 256 if name == "int8" else 128
        scales = np.frombuffer(tile[codes:], np.float16).reshape(-1, 8)
        assert (scales[:, 1:] == 0).all()


@pytest.mark.parametrize("quantization", ["none", "int4", "int4-symmetric", "int8"])
@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_block_record(quantization, pairing):
    config = TINY.model_copy(update={"rope_pairing": pairing, "rms_norm_eps": 1e-6, "rope_theta": 5e5})
    packed = PackedModel.from_checkpoint(random_model(config), quantization)
    record = packed.block_record(1)
    assert record.dtype == np.uint8
    assert record.size % records.PAGE == 0
    head, entries = read_record(record)
    assert head[:4] == (b"MBLK", 1, 1, 9)
    assert head[4] == record.size
    assert head[5:11] == (64, 96, 4, 2, 16, 0)
    assert head[11:13] == (pytest.approx(1e-6), pytest.approx(5e5))
    assert head[13:] == (1 if pairing == "interleaved" else 0, 0)
    assert list(entries) == list(range(9))
    end = 64 + 9 * 32
    for role, (name, shape) in enumerate(config.block_tensors().items()):
        scheme, rows, cols, data, offset = entries[role]
        assert offset % 64 == 0
        assert offset >= end
        assert not any(bytes(record[end:offset]))  # padding
        end = offset + len(data)
        tensor = packed.tensors[f"blocks.1.{name}"]
        if len(shape) == 1:
            assert (scheme, rows, cols) == (0, 1, shape[0])
            assert np.array_equal(np.frombuffer(data, "<f4"), tensor)
        else:
            assert (rows, cols) == shape
            assert np.array_equal(unpack(data, scheme, rows, cols), tensor.dequantize())
    assert not any(bytes(record[end:]))


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_matrix_record(quantization):
    packed = PackedModel.from_checkpoint(random_model(TINY), quantization)
    record = packed.matrix_record("embedding")
    head, entries = read_record(record)
    assert head[:5] == (b"MBLK", 1, 2, 1, record.size)
    assert head[5:] == (64, 0, 0, 0, 0, 0, 0.0, 0.0, 0, 0)
    assert list(entries) == [16]
    scheme, rows, cols, data, _ = entries[16]
    assert (rows, cols) == (67, 64)
    assert np.array_equal(unpack(data, scheme, rows, cols), packed.matrix("embedding").dequantize())


def test_header_and_entry_sizes():
    assert records.HEADER.size == 64
    assert records.ENTRY.size == 32
