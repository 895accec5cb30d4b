"""Weight quantization: one class per scheme, groups of 32, 64 or 128 along the input dimension, fp16 scales.

The numbers in groups of 32 are those of GGUF's blocks, so that Q4_0, Q4_1 and Q8_0 import without loss:

    int4            w = d * q + m          q in 0..15, d and m fp16 per group   (Q4_1)
    int4-symmetric  w = d * (q - 8)        q in 0..15, d fp16 per group         (Q4_0)
    int8            w = d * q              q in -127..127, d fp16 per group     (Q8_0)
    none            w as float32
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mobileloop.errors import MobileloopError

GROUP = 32  # also that of the activations
GROUPS = (32, 64, 128)

F16 = NDArray[np.float16]
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class QuantTensor:
    """One weight matrix as a scheme holds it.

    Attributes:
        scheme: key into `SCHEMES`.
        codes: [rows, cols] uint8 (int4), int8 (int8) or float32 (none).
        scale: [rows, cols / group] float16, or None for `none`.
        minimum: [rows, cols / group] float16, only for `int4`.
        group: inputs that share a scale, one of `GROUPS`; 32 for `none`, which has no scales.
    """

    scheme: str
    codes: NDArray[np.generic]
    scale: F16 | None = None
    minimum: F16 | None = None
    group: int = GROUP

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        rows, cols = self.codes.shape
        return int(rows), int(cols)

    def dequantize(self) -> F32:
        """[rows, cols] float32, bit for bit what the `gguf` package gives for the same blocks."""
        return SCHEMES[self.scheme].dequantize(self)

    def stored_bytes(self) -> int:
        """Bytes of codes, scales and minimums, without padding."""
        return SCHEMES[self.scheme].stored_bytes(*self.shape, self.group)


class Scheme:
    """A way to hold a weight matrix; subclasses are stateless."""

    name: ClassVar[str]
    code: ClassVar[int]  # the number in the packed record, docs/format.md
    bits: ClassVar[int]
    group_bytes: ClassVar[int]  # bytes of scale (and minimum) per group

    def stored_bytes(self, rows: int, cols: int, group: int = GROUP) -> int:
        """Bytes that a matrix of this shape takes: codes, scales and minimums, without padding."""
        return rows * cols * self.bits // 8 + rows * (cols // group) * self.group_bytes

    def quantize(self, weights: F32, group: int = GROUP) -> QuantTensor:
        """[rows, cols] float32 -> QuantTensor.

        Raises:
            MobileloopError: where cols is not a multiple of the group, or a weight is not finite or too large for fp16.
        """
        raise NotImplementedError

    def dequantize(self, tensor: QuantTensor) -> F32:
        """QuantTensor -> [rows, cols] float32."""
        raise NotImplementedError


def fitting_group(cols: int, group: int) -> int:
    """The largest of `GROUPS` up to `group` that divides `cols`; 32 where none does, which `quantize` then refuses."""
    return max((size for size in GROUPS if size <= group and cols % size == 0), default=GROUP)


def _groups(weights: F32, group: int) -> F32:
    rows, cols = weights.shape
    if cols % group:
        raise MobileloopError(
            f"an input dimension of {cols} is not a multiple of the quantization group of {group}; "
            "export this model with --quantize none."
        )
    if not np.isfinite(weights).all():
        raise MobileloopError("a weight is not a finite number, so it cannot be quantized; check the checkpoint.")
    return np.ascontiguousarray(weights, dtype=np.float32).reshape(rows, cols // group, group)


def _half(values: F32) -> F16:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise MobileloopError(
            "a weight is too large for a float16 scale, so it cannot be quantized; export this model with "
            "--quantize none."
        )
    return half


def _spread(values: F16 | None) -> F32:
    assert values is not None
    return values.astype(np.float32)[:, :, None]


def _nonzero_inverse(scale: F16) -> F32:
    wide = scale.astype(np.float32)
    inverse: F32 = np.divide(np.float32(1), wide, out=np.zeros_like(wide), where=wide != 0)
    return inverse[:, :, None]


class Float32(Scheme):
    """Weights as they are."""

    name, code, bits, group_bytes = "none", 1, 32, 0

    def quantize(self, weights: F32, group: int = GROUP) -> QuantTensor:
        return QuantTensor(self.name, np.ascontiguousarray(weights, dtype=np.float32))

    def dequantize(self, tensor: QuantTensor) -> F32:
        return tensor.codes.astype(np.float32, copy=False)


class Int4(Scheme):
    """4-bit codes with a scale and a minimum per group (GGUF Q4_1)."""

    name, code, bits, group_bytes = "int4", 3, 4, 4

    def quantize(self, weights: F32, group: int = GROUP) -> QuantTensor:
        groups = _groups(weights, group)
        low, high = groups.min(axis=2), groups.max(axis=2)
        scale = _half((high - low) / np.float32(15))
        minimum = _half(low)
        codes = np.rint((groups - _spread(minimum)) * _nonzero_inverse(scale))
        codes = np.clip(codes, 0, 15).astype(np.uint8).reshape(weights.shape)
        return QuantTensor(self.name, codes, scale, minimum, group)

    def dequantize(self, tensor: QuantTensor) -> F32:
        codes = tensor.codes.reshape(tensor.shape[0], -1, tensor.group).astype(np.float32)
        return (codes * _spread(tensor.scale) + _spread(tensor.minimum)).reshape(tensor.shape)


class Int4Symmetric(Scheme):
    """4-bit codes around 8 with a scale per group (GGUF Q4_0)."""

    name, code, bits, group_bytes = "int4-symmetric", 2, 4, 2

    def quantize(self, weights: F32, group: int = GROUP) -> QuantTensor:
        groups = _groups(weights, group)
        extreme = np.take_along_axis(groups, np.abs(groups).argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
        scale = _half(extreme / np.float32(-8))
        codes = np.rint(groups * _nonzero_inverse(scale)) + 8
        codes = np.clip(codes, 0, 15).astype(np.uint8).reshape(weights.shape)
        return QuantTensor(self.name, codes, scale, group=group)

    def dequantize(self, tensor: QuantTensor) -> F32:
        codes: F32 = tensor.codes.reshape(tensor.shape[0], -1, tensor.group).astype(np.float32) - np.float32(8)
        return (codes * _spread(tensor.scale)).reshape(tensor.shape)


class Int8(Scheme):
    """8-bit signed codes with a scale per group (GGUF Q8_0)."""

    name, code, bits, group_bytes = "int8", 4, 8, 2

    def quantize(self, weights: F32, group: int = GROUP) -> QuantTensor:
        groups = _groups(weights, group)
        scale = _half(np.abs(groups).max(axis=2) / np.float32(127))
        codes = np.rint(groups * _nonzero_inverse(scale))
        codes = np.clip(codes, -127, 127).astype(np.int8).reshape(weights.shape)
        return QuantTensor(self.name, codes, scale, group=group)

    def dequantize(self, tensor: QuantTensor) -> F32:
        codes = tensor.codes.reshape(tensor.shape[0], -1, tensor.group).astype(np.float32)
        return (codes * _spread(tensor.scale)).reshape(tensor.shape)


SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (Float32(), Int4(), Int4Symmetric(), Int8())}

# What `--quantize` writes: (scheme of the blocks, scheme of embedding and head). Embeddings of deep-thin models
# are a fifth of the weights and sensitive, so they stay 8-bit, as in the GGUF files of this size.
QUANTIZATIONS: dict[str, tuple[str, str]] = {
    "int4": ("int4", "int8"),
    "int4-symmetric": ("int4-symmetric", "int8"),
    "int8": ("int8", "int8"),
    "none": ("none", "none"),
}
