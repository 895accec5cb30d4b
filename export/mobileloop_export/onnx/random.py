"""Noise in an ONNX graph: the numbers of `mobileloop.decode.random` (docs/random.md), as standard nodes."""

from __future__ import annotations

from onnx import TensorProto, helper

from mobileloop.decode.random import KEY_STEPS, MULTIPLIERS, ROUNDS
from mobileloop_export.onnx.nodes import Nodes

HALF_WORD, WORD = 1 << 16, 1 << 32


def normal(nodes: Nodes, seed: str, position: str, count: int, stream: int) -> str:
    """Append the nodes of `mobileloop.decode.random.normal`; returns the name of a [count] float32 value.

    All of it is int64 arithmetic below 2^63, which every runtime has, and then double.

    Args:
        nodes: of the graph.
        seed, position: names of int64 scalars, not negative.
        count: how many numbers.
        stream: 1 + the application's index.
    """
    draws = -(-count // 2)
    first = nodes.add("Range", nodes.integer(0), nodes.integer(draws), nodes.integer(1))
    none = nodes.add("Sub", first, first)
    low, high = _words(nodes, position)
    words = [
        first,
        nodes.add("Add", none, low),
        nodes.add("Add", none, high),
        nodes.add("Add", none, nodes.integer(stream)),
    ]
    keys = list(_words(nodes, seed))
    for _ in range(ROUNDS):
        (upper, lower), (upper2, lower2) = (
            _product(nodes, words[place], factor) for place, factor in zip((0, 2), MULTIPLIERS, strict=True)
        )
        words = [
            nodes.add("BitwiseXor", nodes.add("BitwiseXor", upper2, words[1]), keys[0]),
            lower2,
            nodes.add("BitwiseXor", nodes.add("BitwiseXor", upper, words[3]), keys[1]),
            lower,
        ]
        keys = [
            nodes.add("Mod", nodes.add("Add", key, nodes.integer(step)), nodes.integer(WORD))
            for key, step in zip(keys, KEY_STEPS, strict=True)
        ]
    return _box_muller(nodes, _unit(nodes, words[0], words[1]), _unit(nodes, words[2], words[3]), count)


def _box_muller(nodes: Nodes, first: str, second: str, count: int) -> str:
    """Two numbers of each pair, in double, rounded to float32 at the end."""
    logarithm = nodes.add("Log", nodes.add("Sub", _double(nodes, 1.0), first))
    radius = nodes.add("Sqrt", nodes.add("Mul", _double(nodes, -2.0), logarithm))
    angle = nodes.add("Mul", _double(nodes, 2 * 3.141592653589793), second)
    pair = [
        nodes.add("Unsqueeze", nodes.add("Mul", radius, nodes.add(turn, angle)), nodes.ints([1]))
        for turn in ("Cos", "Sin")
    ]
    flat = nodes.add("Reshape", nodes.add("Concat", *pair, axis=1), nodes.ints([-1]))
    return nodes.add("Cast", nodes.add("Slice", flat, nodes.ints([0]), nodes.ints([count])), to=TensorProto.FLOAT)


def _words(nodes: Nodes, value: str) -> tuple[str, str]:
    """The low and the high 32 bits of an int64 that is not negative."""
    word = nodes.integer(WORD)
    return nodes.add("Mod", value, word), nodes.add("Div", value, word)


def _product(nodes: Nodes, value: str, factor: int) -> tuple[str, str]:
    """The high and the low word of the product of two words, in halves so that no sum reaches 2^63."""
    half = nodes.integer(HALF_WORD)
    low = nodes.add("Mul", value, nodes.integer(factor % HALF_WORD))
    high = nodes.add("Add", nodes.add("Mul", value, nodes.integer(factor // HALF_WORD)), nodes.add("Div", low, half))
    lower = nodes.add("Mul", nodes.add("Mod", high, half), half)
    return nodes.add("Div", high, half), nodes.add("Add", lower, nodes.add("Mod", low, half))


def _unit(nodes: Nodes, low: str, high: str) -> str:
    """Two words as a double in [0, 1)."""
    upper = nodes.add("Mul", high, nodes.integer(1 << 21))
    whole = nodes.add("Add", upper, nodes.add("Div", low, nodes.integer(1 << 11)))
    return nodes.add("Mul", nodes.add("Cast", whole, to=TensorProto.DOUBLE), _double(nodes, 2.0**-53))


def _double(nodes: Nodes, value: float) -> str:
    return nodes.add("Constant", value=helper.make_tensor("", TensorProto.DOUBLE, [], [value]))
