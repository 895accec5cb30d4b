"""Packed records: the bytes that one application reads, front to back (docs/format.md, to the byte).

A record is self-describing: a header with the block's dimensions, a table of its tensors, then the tensors in
the order an application reads them. Matrices are cut into tiles of 8 rows by one group of inputs, scales inside,
so that a kernel streams one contiguous range and finishes 8 rows at once without a horizontal sum.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobileloop.errors import MobileloopError, library_errors
from mobileloop.quant.schemes import GROUP, SCHEMES, QuantTensor
from mobileloop.spec.config import ModelConfig

MAGIC = 0x4B4C424D  # "MBLK"
RECORD_VERSION = 2  # 1 knows groups of 32 only, and is written where there are no others
KIND_BLOCK, KIND_MATRIX = 1, 2
VECTOR_SCHEME = 0
TILE_ROWS = 8
TENSOR_ALIGNMENT = 64
PAGE = 16384  # Android devices use pages of 4 KiB or 16 KiB; a multiple of the larger suits both

HEADER = struct.Struct("<IIIIQIIIIIIffII")
ENTRY = struct.Struct("<IHHIIQQ")

ROLES = {
    "input_layernorm": 0,
    "q_proj": 1,
    "k_proj": 2,
    "v_proj": 3,
    "o_proj": 4,
    "post_attention_layernorm": 5,
    "gate_proj": 6,
    "up_proj": 7,
    "down_proj": 8,
    "matrix": 16,
}

U8 = NDArray[np.uint8]
_Part = tuple[str, int, int, int, int, U8]  # role, scheme, group (0 is 32), rows, cols, data


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def pack_matrix(tensor: QuantTensor) -> U8:
    """The tiles of a matrix, row group by row group; rows and inputs are padded with zeros to whole tiles.

    Args:
        tensor: [rows, cols].

    Returns:
        1-D uint8, `ceil(rows / 8) * ceil(cols / group)` tiles.
    """
    rows, cols = tensor.shape
    padded = np.zeros((_round_up(rows, TILE_ROWS), _round_up(cols, tensor.group)), dtype=tensor.codes.dtype)
    padded[:rows, :cols] = tensor.codes
    row_groups, groups = padded.shape[0] // TILE_ROWS, padded.shape[1] // tensor.group
    tiles = padded.reshape(row_groups, TILE_ROWS, -1, GROUP).transpose(0, 2, 1, 3)  # [rg, part, row, input]
    parts = [_CODE_BYTES[tensor.scheme](tiles).reshape(row_groups, groups, -1)]
    for values in (tensor.scale, tensor.minimum):
        if values is not None:
            wide = np.zeros((padded.shape[0], groups), dtype=np.float16)
            wide[:rows] = values
            wide = np.ascontiguousarray(wide.reshape(row_groups, TILE_ROWS, groups).transpose(0, 2, 1))
            parts.append(wide.view(np.uint8).reshape(row_groups, groups, -1))
    return np.concatenate(parts, axis=2).reshape(-1)


def _nibbles(tiles: NDArray[np.generic]) -> U8:
    """[rg, part, 8, 32] codes -> [rg, part, 128]: byte c*32 + r*4 + j is row r, input c*4+j low, 16+c*4+j high."""
    halves = tiles.reshape(*tiles.shape[:3], 2, 4, 4).astype(np.uint8)  # row, half, c, j
    packed = halves[:, :, :, 0] | (halves[:, :, :, 1] << 4)
    return np.ascontiguousarray(packed.transpose(0, 1, 3, 2, 4)).reshape(*tiles.shape[:2], -1)


def _bytes8(tiles: NDArray[np.generic]) -> U8:
    """[rg, part, 8, 32] codes -> [rg, part, 256]: byte c*32 + r*4 + j holds input c*4+j of row r."""
    quads = tiles.reshape(*tiles.shape[:3], 8, 4).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(quads).view(np.uint8).reshape(*tiles.shape[:2], -1)


def _floats(tiles: NDArray[np.generic]) -> U8:
    """[rg, part, 8, 32] floats -> [rg, part, 1024]: float k*8 + r holds input k of row r."""
    columns = np.ascontiguousarray(tiles.transpose(0, 1, 3, 2))
    return columns.view(np.uint8).reshape(*tiles.shape[:2], -1)


_CODE_BYTES = {"none": _floats, "int4": _nibbles, "int4-symmetric": _nibbles, "int8": _bytes8}


def _assemble(kind: int, dims: tuple[int, ...], eps: float, theta: float, flags: int, parts: list[_Part]) -> U8:
    offset = _round_up(HEADER.size + ENTRY.size * len(parts), TENSOR_ALIGNMENT)
    entries, placed = [], []
    for role, scheme, group, rows, cols, data in parts:
        entries.append(ENTRY.pack(ROLES[role], scheme, group, rows, cols, offset, data.size))
        placed.append((offset, data))
        offset = _round_up(offset + data.size, TENSOR_ALIGNMENT)
    total = _round_up(offset, PAGE)
    record = np.zeros(total, dtype=np.uint8)
    version = RECORD_VERSION if any(group for _, _, group, *_ in parts) else 1
    header = HEADER.pack(MAGIC, version, kind, len(parts), total, *dims, eps, theta, flags, 0)
    table = np.frombuffer(header + b"".join(entries), dtype=np.uint8)
    record[: table.size] = table
    for start, data in placed:
        record[start : start + data.size] = data
    return record


def block_record(config: ModelConfig, tensors: dict[str, QuantTensor | NDArray[np.float32]]) -> U8:
    """One block as one record, a multiple of 16 KiB long.

    Args:
        config: the model's dimensions.
        tensors: the names of `ModelConfig.block_tensors`; matrices as QuantTensor, norms [hidden] float32.
    """
    parts = [_part(name, tensors[name]) for name in config.block_tensors()]
    dims = (
        config.hidden_size,
        config.intermediate_size,
        config.num_heads,
        config.num_kv_heads,
        config.head_dim,
        0,
    )
    flags = 1 if config.rope_pairing == "interleaved" else 0
    return _assemble(KIND_BLOCK, dims, config.rms_norm_eps, config.rope_theta, flags, parts)


def matrix_record(tensor: QuantTensor) -> U8:
    """An embedding or a head as one record."""
    return _assemble(KIND_MATRIX, (tensor.shape[1], 0, 0, 0, 0, 0), 0.0, 0.0, 0, [_part("matrix", tensor)])


def unpack_record(record: U8, where: str) -> dict[str, QuantTensor | NDArray[np.float32]]:
    """The tensors of a record by role, as they were packed: the slow way back, for checks.

    Args:
        record: 1-D uint8, a whole record of a file that the engine has opened, or one just packed.
        where: the record's place, for messages.

    Raises:
        MobileloopError: where the bytes are no record.
    """
    with library_errors(where, "export it again"):
        magic, _, _, count, total, *_ = HEADER.unpack_from(record[: HEADER.size].tobytes())
        if magic != MAGIC or total > record.size or count > len(ROLES):
            raise MobileloopError(f"{where} is no record; export it again.")
        table = record[HEADER.size : HEADER.size + ENTRY.size * count].tobytes()
        names = {number: name for name, number in ROLES.items()}
        found: dict[str, QuantTensor | NDArray[np.float32]] = {}
        for i in range(count):
            role, scheme, group, rows, cols, offset, size = ENTRY.unpack_from(table, ENTRY.size * i)
            data = np.ascontiguousarray(record[offset : offset + size])
            known = {held.code: name for name, held in SCHEMES.items()}
            vector = scheme == VECTOR_SCHEME
            found[names[role]] = (
                data.view("<f4").astype(np.float32)
                if vector
                else _unpacked(data, known[scheme], group or GROUP, rows, cols)
            )
        return found


def _unpacked(data: U8, scheme: str, group: int, rows: int, cols: int) -> QuantTensor:
    """The matrix of tiles, the inverse of `pack_matrix`."""
    row_groups, groups, parts = -(-rows // TILE_ROWS), -(-cols // group), group // GROUP
    tiles = data.reshape(row_groups, groups, -1)
    scales = 2 * TILE_ROWS * ((SCHEMES[scheme].group_bytes + 1) // 2)
    codes = np.ascontiguousarray(tiles[:, :, : tiles.shape[2] - scales]).reshape(row_groups, groups * parts, -1)
    wide = _CODES_OF_BYTES[scheme](codes)  # [rg, part, 8, 32]
    matrix = wide.transpose(0, 2, 1, 3).reshape(row_groups * TILE_ROWS, -1)[:rows, :cols]
    halves = np.ascontiguousarray(tiles[:, :, tiles.shape[2] - scales :]).view("<f2").astype(np.float16)
    held = [
        np.ascontiguousarray(part.transpose(0, 2, 1).reshape(row_groups * TILE_ROWS, groups)[:rows])
        for part in (halves[:, :, i : i + TILE_ROWS] for i in range(0, halves.shape[2], TILE_ROWS))
    ]
    scale, minimum, *_ = [*held, None, None]
    return QuantTensor(scheme, np.ascontiguousarray(matrix), scale, minimum, group)


def _from_nibbles(codes: U8) -> Any:
    bytes4 = codes.reshape(*codes.shape[:2], 4, TILE_ROWS, 4)  # c, row, j
    halves = np.stack([bytes4 & 0xF, bytes4 >> 4])  # half, rg, part, c, row, j
    return halves.transpose(1, 2, 4, 0, 3, 5).reshape(*codes.shape[:2], TILE_ROWS, GROUP)


def _from_bytes8(codes: U8) -> Any:
    quads = codes.view(np.int8).reshape(*codes.shape[:2], 8, TILE_ROWS, 4)
    return quads.transpose(0, 1, 3, 2, 4).reshape(*codes.shape[:2], TILE_ROWS, GROUP)


def _from_floats(codes: U8) -> Any:
    columns = codes.view("<f4").reshape(*codes.shape[:2], GROUP, TILE_ROWS)
    return columns.transpose(0, 1, 3, 2)


_CODES_OF_BYTES = {"none": _from_floats, "int4": _from_nibbles, "int4-symmetric": _from_nibbles, "int8": _from_bytes8}


def _part(role: str, tensor: QuantTensor | NDArray[np.float32]) -> _Part:
    if isinstance(tensor, QuantTensor):
        group = 0 if tensor.group == GROUP else tensor.group
        return role, SCHEMES[tensor.scheme].code, group, *tensor.shape, pack_matrix(tensor)
    vector = np.ascontiguousarray(tensor, dtype="<f4")
    return role, VECTOR_SCHEME, 0, 1, vector.size, vector.view(np.uint8)
