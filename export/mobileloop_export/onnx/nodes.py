"""Building blocks of an ONNX graph: a list of nodes under construction, and quantized matrices in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from mobileloop.quant.schemes import GROUP, SCHEMES, QuantTensor

CONTRIB = "com.microsoft"
ZERO_POINT = {4: 8, 8: 128}  # what MatMulNBits subtracts from a code where no zero points are given
_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


class Nodes:
    """Nodes of one graph in order, with unique value names.

    The body of a Loop is a second `Nodes` made by `inner()`: it draws names from the same counter, so that nothing
    shadows an outer value, and its constants land in the outer list, so that the body holds none.
    """

    def __init__(self, outer: Nodes | None = None) -> None:
        self.protos: list[NodeProto] = []
        self._root: Nodes = outer._root if outer else self
        self._count = 0
        self._constants: dict[tuple[str, tuple[Any, ...]], str] = {}

    def inner(self) -> Nodes:
        """An empty list for a subgraph of this one."""
        return Nodes(self)

    def add(self, op: str, *inputs: str, domain: str = "", out: str | None = None, **attributes: Any) -> str:
        """Append a node with one output; returns that output's name."""
        name = out or self._fresh(op)
        self.protos.append(helper.make_node(op, inputs, [name], domain=domain, **attributes))
        return name

    def split(self, value: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Cut `value` along `axis` into parts of `sizes`."""
        return self.many("Split", [value, self.ints(sizes)], len(sizes), axis=axis)

    def many(self, op: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """Append a node with several outputs; returns their names."""
        names = [self._fresh(op) for _ in range(outputs)]
        self.protos.append(helper.make_node(op, inputs, names, **attributes))
        return names

    def ints(self, values: Iterable[int]) -> str:
        """A constant int64 vector, made once."""
        return self._root._constant("value_ints", tuple(values))

    def integer(self, value: int) -> str:
        """A constant int64 scalar, made once."""
        return self._root._constant("value_int", (value,))

    def number(self, value: float) -> str:
        """A constant float32 scalar, made once."""
        return self._root._constant("value_float", (value,))

    def _constant(self, kind: str, values: tuple[Any, ...]) -> str:
        if (kind, values) not in self._constants:
            value: Any = list(values) if kind == "value_ints" else values[0]
            name = self._constants[kind, values] = self._fresh("Constant")
            self.protos.append(helper.make_node("Constant", [], [name], **{kind: value}))
        return self._constants[kind, values]

    def _fresh(self, op: str) -> str:
        self._root._count += 1
        return f"{op.lower()}_{self._root._count}"


def tensor(name: str, values: NDArray[Any]) -> TensorProto:
    """An initializer with its bytes as they lie in memory (the repeated fields take seconds per 10 MB)."""
    proto = TensorProto(name=name, data_type=_TYPES[str(values.dtype)], dims=values.shape)
    proto.raw_data = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    return proto


@dataclass(frozen=True)
class Matrix:
    """A weight matrix [rows, cols] in the graph: its scheme and the names of its stored parts.

    The parts are, in order, `codes` (float32 [rows, cols] for `none`, else uint8 [rows, cols / 32, 32 * bits / 8]),
    and where the scheme has them `scale` and `minimum`, float16 [rows, cols / 32].
    """

    name: str
    scheme: str
    rows: int
    cols: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the stored parts."""
        parts = {"none": (), "int4": (".scale", ".minimum")}.get(self.scheme, (".scale",))
        return (f"{self.name}.codes", *(self.name + part for part in parts))

    @property
    def bits(self) -> int:
        """Bits per code."""
        return SCHEMES[self.scheme].bits


def stored(matrix: Matrix, parts: Sequence[QuantTensor]) -> list[TensorProto]:
    """The initializers of a matrix whose rows are those of `parts`, one after the other.

    Codes become what MatMulNBits reads: unsigned, two to a byte with the lower nibble first. int8 codes move by
    128, its default zero point; the scales and minimums stay the float16 of the source.
    """
    codes = np.concatenate([part.codes for part in parts])
    arrays: list[NDArray[Any]] = []
    if matrix.scheme == "none":
        arrays.append(codes.astype(np.float32, copy=False))
    elif matrix.bits == 4:
        pairs = codes.astype(np.uint8, copy=False).reshape(matrix.rows, matrix.cols // GROUP, GROUP // 2, 2)
        arrays.append(pairs[..., 0] | pairs[..., 1] << 4)
    else:
        unsigned = codes.astype(np.int8, copy=False).view(np.uint8) ^ np.uint8(0x80)  # two's complement + 128
        arrays.append(unsigned.reshape(matrix.rows, matrix.cols // GROUP, GROUP))
    for field in ("scale", "minimum"):
        values = [getattr(part, field) for part in parts]
        if values[0] is not None:
            arrays.append(np.concatenate(values))
    return [tensor(name, array) for name, array in zip(matrix.inputs, arrays, strict=True)]


@dataclass(frozen=True)
class Multiplier:
    """A matrix made ready to multiply: what depends on the weights alone, which onnxruntime folds at load.

    Attributes:
        matrix: the weights.
        scale: value name, float32 [rows, cols / 32]; empty for `none`.
        offset: value name, float32 [rows, cols / 32], for `int4` only: m + 8 * d.
    """

    matrix: Matrix
    scale: str = ""
    offset: str = ""

    @classmethod
    def prepare(cls, nodes: Nodes, matrix: Matrix) -> Multiplier:
        """Append the casts of scale and minimum."""
        if matrix.scheme == "none":
            return cls(matrix)
        scale = nodes.add("Cast", matrix.inputs[1], to=TensorProto.FLOAT)
        if matrix.scheme != "int4":
            return cls(matrix, scale)
        minimum = nodes.add("Cast", matrix.inputs[2], to=TensorProto.FLOAT)
        return cls(matrix, scale, nodes.add("Add", minimum, nodes.add("Mul", scale, nodes.number(8.0))))

    def apply(self, nodes: Nodes, x: str, sums: str, planes: str) -> str:
        """x [tokens, cols] float32 times the transposed weights -> [tokens, rows].

        4-bit products keep float32 activations (accuracy level 1). onnxruntime has no fast float32 product of 8-bit
        weights, and its fast one (level 4) rounds activations to 8 bits, which alone misses the limits of `verify`
        when blocks run twice; so 8-bit products take `planes` [2 * tokens, cols] instead, see `two_planes`.

        `int4` is w = d * q + m = d * (q - 8) + (m + 8 * d): MatMulNBits does the first term with its default zero
        point; the second is constant within a group, so it needs only `sums` [tokens, cols / 32], the sum of x
        over every group, in float32. No part of the minimum is rounded away, as it would be in a 4-bit zero point.
        """
        matrix = self.matrix
        if matrix.scheme == "none":
            return nodes.add("Gemm", x, matrix.inputs[0], transB=1)
        product = nodes.add(
            "MatMulNBits",
            planes if matrix.bits == 8 else x,
            matrix.inputs[0],
            self.scale,
            domain=CONTRIB,
            K=matrix.cols,
            N=matrix.rows,
            bits=matrix.bits,
            block_size=GROUP,
            accuracy_level=4 if matrix.bits == 8 else 1,
        )
        if matrix.bits == 8:
            return nodes.add("Add", *nodes.many("Split", [product], 2, axis=0, num_outputs=2))
        return nodes.add("Gemm", sums, self.offset, product, transB=1) if self.offset else product


def project(nodes: Nodes, x: str, multipliers: Sequence[Multiplier]) -> str:
    """x [tokens, cols] through several matrices of as many columns -> their outputs side by side."""
    matrices = [multiplier.matrix for multiplier in multipliers]
    sums = planes = ""
    if any(multiplier.offset for multiplier in multipliers):
        sums = nodes.add("ReduceSum", _grouped(nodes, x, matrices[0].cols), nodes.ints([2]), keepdims=0)
    if any(matrix.bits == 8 for matrix in matrices):
        planes = two_planes(nodes, x, matrices[0].cols)
    outputs = [multiplier.apply(nodes, x, sums, planes) for multiplier in multipliers]
    return outputs[0] if len(outputs) == 1 else nodes.add("Concat", *outputs, axis=1)


def two_planes(nodes: Nodes, x: str, cols: int) -> str:
    """x [tokens, cols] as coarse + fine -> [2 * tokens, cols], the coarse rows first.

    The coarse rows lie on the grid that an 8-bit quantization per group gives, so quantizing them loses nothing; what
    they leave out is a second row with a finer grid of its own. A product then reads its weights once for 15 bits.
    """
    grouped = _grouped(nodes, x, cols)
    largest = nodes.add("ReduceMax", nodes.add("Abs", grouped), nodes.ints([2]))
    step = nodes.add("Div", nodes.add("Max", largest, nodes.number(1e-30)), nodes.number(127.0))
    coarse = nodes.add("Mul", nodes.add("Round", nodes.add("Div", grouped, step)), step)
    both = nodes.add("Concat", coarse, nodes.add("Sub", grouped, coarse), axis=0)
    return nodes.add("Reshape", both, nodes.ints([-1, cols]))


def _grouped(nodes: Nodes, x: str, cols: int) -> str:
    """[tokens, cols] -> [tokens, cols / 32, 32]."""
    return nodes.add("Reshape", x, nodes.ints([-1, cols // GROUP, GROUP]))


def look_up(nodes: Nodes, matrix: Matrix, rows: str) -> str:
    """The rows [tokens] int64 of a matrix, dequantized -> [tokens, cols] float32; only these rows are touched."""
    codes = nodes.add("Gather", matrix.inputs[0], rows)
    if matrix.scheme == "none":
        return codes
    if matrix.bits == 4:
        codes = _nibbles(nodes, codes, matrix.cols)
    values = nodes.add("Cast", codes, to=TensorProto.FLOAT)
    if matrix.scheme != "int4":
        values = nodes.add("Sub", values, nodes.number(float(ZERO_POINT[matrix.bits])))
    scale, *minimum = (
        nodes.add(
            "Cast", nodes.add("Unsqueeze", nodes.add("Gather", part, rows), nodes.ints([2])), to=TensorProto.FLOAT
        )
        for part in matrix.inputs[1:]
    )
    values = nodes.add("Mul", values, scale)
    if minimum:
        values = nodes.add("Add", values, minimum[0])
    return nodes.add("Reshape", values, nodes.ints([-1, matrix.cols]))


def _nibbles(nodes: Nodes, packed: str, cols: int) -> str:
    """Bytes [tokens, groups, 16] -> codes [tokens, groups, 32], lower nibble first."""
    four, fifteen = (nodes.add("Cast", nodes.integer(value), to=TensorProto.UINT8) for value in (4, 15))
    low = nodes.add("BitwiseAnd", packed, fifteen)
    high = nodes.add("BitShift", packed, four, direction="RIGHT")
    last = nodes.ints([3])
    pairs = nodes.add("Concat", nodes.add("Unsqueeze", low, last), nodes.add("Unsqueeze", high, last), axis=3)
    return nodes.add("Reshape", pairs, nodes.ints([-1, cols // GROUP, GROUP]))
