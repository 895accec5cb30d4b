"""Tensors of a GGUF file: what our schemes hold is kept bit for bit, every other type becomes float32.

The numbers of Q4_0, Q4_1 and Q8_0 are those of our schemes in groups of 32. The other types are dequantized by the
`gguf` package, ggml's own Python side, and packed again by whoever asked for the weights. Q8_K, which that package does
not dequantize, is read here: 256 codes of 8 bits behind one float32 scale, and the sums of 16 codes each, which are
for products alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobileloop.errors import MobileloopError, library_errors, printable
from mobileloop.quant.schemes import GROUP, QuantTensor

Tensor = QuantTensor | NDArray[np.float32]

KEPT = {"Q4_0": "int4-symmetric", "Q4_1": "int4", "Q8_0": "int8"}  # type -> the scheme with the same numbers
FLOATS = ("F32", "F16", "BF16", "F64")
_CHUNK_VALUES = 1 << 22  # dequantized at a time: some of the package's ways take many times their result
_Q8_K_CODES, _Q8_K_SUMS = 256, 16
_REMEDY = "take another file of this model or its safetensors folder"


def kept(kind: str, dimensions: int = 2) -> bool:
    """Whether a type's numbers are kept bit for bit: those of our schemes in matrices, and floats."""
    return kind in FLOATS or (kind in KEPT and dimensions == 2)


def repacked_notes(tensors: Iterable[Any]) -> tuple[str, ...]:
    """A sentence that counts by type what is dequantized, such as `32 Q4_K and 2 Q6_K`; none where nothing is.

    Args:
        tensors: those of a GGUFReader that are used.
    """
    kinds = Counter(t.tensor_type.name for t in tensors if not kept(t.tensor_type.name, len(t.shape)))
    parts = [f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))]
    if not parts:
        return ()
    counted = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    are = "tensor of the file is" if sum(kinds.values()) == 1 else "tensors of the file are"
    return (f"{counted} {are} dequantized and packed again, since no scheme here has the same numbers",)


def read_tensor(path: Path, tensor: Any) -> Tensor:
    """One tensor of a GGUFReader.

    Args:
        path: the file, for messages.
        tensor: a ReaderTensor; `shape` has the inputs first, and `data` is [rows..., bytes] for quantized types.

    Returns:
        A QuantTensor for a matrix of Q4_0, Q4_1 or Q8_0, else float32 of the tensor's shape, inputs last.

    Raises:
        MobileloopError: naming tensor and type, where the type holds no weights, the installed gguf package cannot
            dequantize it, or the bytes do not agree with the shape.
    """
    kind = str(tensor.tensor_type.name)
    shape = tuple(int(extent) for extent in reversed(tensor.shape))
    what = f"the tensor {printable(str(tensor.name))} of {path}, of type {kind},"
    with library_errors(what, _REMEDY):
        data = np.asarray(tensor.data)
        _check_size(what, data, shape, tensor)
        if kind in ("F32", "F16", "F64"):
            with np.errstate(over="ignore", invalid="ignore"):
                return data.reshape(shape).astype(np.float32)
        if kind in KEPT and len(shape) == 2:
            return _kept_matrix(kind, data, shape[0], shape[1])
        return _dequantized(what, kind, tensor.tensor_type, data, shape)


def _check_size(what: str, data: NDArray[Any], shape: tuple[int, ...], tensor: Any) -> None:
    """Raise MobileloopError where the bytes at hand are not those of the shape."""
    from gguf.constants import GGML_QUANT_SIZES

    per_block, block_bytes = GGML_QUANT_SIZES[tensor.tensor_type]
    values = int(np.prod(shape, dtype=object))
    if not shape or values == 0 or shape[-1] % per_block or data.nbytes != values // per_block * block_bytes:
        raise MobileloopError(
            f"{what} has {data.nbytes} bytes, which do not agree with its shape {list(shape)}; download the file again."
        )


def _kept_matrix(kind: str, data: NDArray[Any], rows: int, cols: int) -> QuantTensor:
    blocks = data.reshape(rows, cols // GROUP, -1)
    scale = np.ascontiguousarray(blocks[:, :, 0:2]).view(np.float16)[:, :, 0]
    if kind == "Q8_0":
        return QuantTensor("int8", np.ascontiguousarray(blocks[:, :, 2:]).view(np.int8).reshape(rows, cols), scale)
    nibbles = blocks[:, :, 2:] if kind == "Q4_0" else blocks[:, :, 4:]
    codes = np.concatenate([nibbles & 0xF, nibbles >> 4], axis=2).reshape(rows, cols)
    if kind == "Q4_0":
        return QuantTensor("int4-symmetric", codes, scale)
    minimum = np.ascontiguousarray(blocks[:, :, 2:4]).view(np.float16)[:, :, 0]
    return QuantTensor("int4", codes, scale, minimum)


def _dequantized(what: str, kind: str, number: Any, data: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """float32 of any shape, some rows at a time."""
    rows = int(np.prod(shape[:-1], dtype=np.int64))
    stored = np.ascontiguousarray(data).view(np.uint8).reshape(rows, -1)
    out = np.empty((rows, shape[-1]), dtype=np.float32)
    step = max(1, _CHUNK_VALUES // shape[-1])
    for start in range(0, rows, step):
        with np.errstate(all="ignore"):  # a damaged scale may be no number; whoever packs it says so
            out[start : start + step] = _rows(what, kind, number, stored[start : start + step])
    return out.reshape(shape)


def _rows(what: str, kind: str, number: Any, stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[rows, bytes] -> [rows, values] float32."""
    if kind == "Q8_K":
        return _q8_k(stored)
    if kind.startswith("I") and kind[1:].isdigit():
        raise MobileloopError(f"{what} holds whole numbers where weights are needed; {_REMEDY}.")
    from gguf.quants import dequantize

    try:
        return np.asarray(dequantize(stored, number), dtype=np.float32)
    except NotImplementedError:
        raise MobileloopError(
            f"{what} cannot be dequantized by the installed gguf package; {_REMEDY}, or a newer gguf package."
        ) from None


def _q8_k(stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    blocks = stored.reshape(stored.shape[0], -1, 4 + _Q8_K_CODES + 2 * _Q8_K_SUMS)
    scale = np.ascontiguousarray(blocks[:, :, :4]).view("<f4")
    codes = np.ascontiguousarray(blocks[:, :, 4 : 4 + _Q8_K_CODES]).view(np.int8)
    return (scale * codes.astype(np.float32)).reshape(stored.shape[0], -1)
