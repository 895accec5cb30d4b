"""One stage of the schedule, and the head, as ONNX functions: our operators, written down in standard ones.

A function's body is the operator's executable definition: stock onnxruntime inlines it and runs one `Loop`; a
session that knows a kernel named `mobileloop::loop` runs that for the same node. Every weight is an input of the
function, so the Loop body holds none: initializers inside a body are packed once more per use, those of the outer
graph once in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnx import AttributeProto, FunctionProto, OperatorSetIdProto, TensorProto, helper

from mobileloop.packed import PackedModel
from mobileloop.quant.schemes import QuantTensor
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Stage
from mobileloop_export.onnx.block import GROUPS, NORMS, Block, past_of, rms_norm
from mobileloop_export.onnx.nodes import CONTRIB, Matrix, Multiplier, Nodes, project, stored

DOMAIN = "mobileloop"
OP, HEAD = "loop", "head"
OPSETS = {"": 23, CONTRIB: 1, DOMAIN: 1}  # 23 brought Attention, RotaryEmbedding and RMSNormalization

FIXED_INPUTS = ("hidden", "loops", "position", "cos", "sin", "mask", "keys", "values")
FIXED_OUTPUTS = ("hidden_out", "new_keys", "new_values")

BlockSchemes = tuple[tuple[str, tuple[str, ...]], ...]
Shape = Sequence[str | int | None]


def block_schemes(packed: PackedModel, block: int) -> BlockSchemes:
    """The scheme of every matrix of a block, by group."""
    tensors = packed.block(block)

    def scheme(name: str) -> str:
        tensor = tensors[name]
        assert isinstance(tensor, QuantTensor)
        return tensor.scheme

    return tuple((group, tuple(scheme(name) for name in names)) for group, names in GROUPS.items())


def block_matrices(config: ModelConfig, schemes: BlockSchemes, prefix: str) -> dict[str, list[Matrix]]:
    """The stored matrices of a block by group: one where the schemes agree, else one each."""
    shapes = config.block_tensors()
    matrices: dict[str, list[Matrix]] = {}
    for group, held in schemes:
        names, cols = GROUPS[group], shapes[GROUPS[group][0]][1]
        if len(set(held)) == 1:
            matrices[group] = [Matrix(f"{prefix}{group}", held[0], sum(shapes[name][0] for name in names), cols)]
        else:
            matrices[group] = [
                Matrix(f"{prefix}{name}", scheme, shapes[name][0], cols)
                for name, scheme in zip(names, held, strict=True)
            ]
    return matrices


def block_inputs(config: ModelConfig, schemes: BlockSchemes, prefix: str) -> list[str]:
    """Names of everything a block stores, in the order in which the function takes it."""
    names = [prefix + norm for norm in NORMS]
    for matrices in block_matrices(config, schemes, prefix).values():
        names += [name for matrix in matrices for name in matrix.inputs]
    return names


def stored_block(packed: PackedModel, block: int, prefix: str) -> list[TensorProto]:
    """The initializers of a block's matrices."""
    tensors = packed.block(block)
    protos: list[TensorProto] = []
    for group, matrices in block_matrices(packed.config, block_schemes(packed, block), prefix).items():
        sources = [tensor for name in GROUPS[group] if isinstance(tensor := tensors[name], QuantTensor)]
        if len(matrices) == 1:
            protos += stored(matrices[0], sources)
        else:
            protos += [proto for m, source in zip(matrices, sources, strict=True) for proto in stored(m, [source])]
    return protos


@dataclass(frozen=True)
class StageForm:
    """What makes two stages the same function: everything but the weights and the place in the model."""

    blocks: tuple[BlockSchemes, ...]
    damping: float
    loop_end_norm: bool

    @classmethod
    def of(cls, packed: PackedModel, stage: Stage) -> StageForm:
        """The form of a stage."""
        return cls(tuple(block_schemes(packed, b) for b in stage.blocks), stage.damping, stage.loop_end_norm)

    def inputs(self, config: ModelConfig, prefixes: Sequence[str]) -> list[str]:
        """Names of the function's inputs, the weights under the given prefix of each block."""
        names = list(FIXED_INPUTS)
        for schemes, prefix in zip(self.blocks, prefixes, strict=True):
            names += block_inputs(config, schemes, prefix)
        return [*names, "final_norm"] if self.loop_end_norm else names

    def attributes(self, config: ModelConfig, stage: Stage, slot_base: int) -> dict[str, Any]:
        """What a kernel for the node must know; of these the body itself reads only `slot_base`."""
        return {
            "num_blocks": len(self.blocks),
            "num_heads": config.num_heads,
            "num_kv_heads": config.num_kv_heads,
            "head_dim": config.head_dim,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "rms_norm_eps": config.rms_norm_eps,
            "rope_theta": config.rope_theta,
            "rope_pairing": config.rope_pairing,
            "damping": self.damping,
            "loop_end_norm": int(self.loop_end_norm),
            "max_loops": stage.max_loops,
            "slot_base": slot_base,
            "schemes": [f"{group}:{','.join(held)}" for schemes in self.blocks for group, held in schemes],
        }


def stage_function(config: ModelConfig, form: StageForm, attributes: Sequence[str], overload: str) -> FunctionProto:
    """The function of a form.

    Inputs: hidden [tokens, hidden] float32; loops and position, int64 scalars; cos and sin
    [1, tokens, head_dim / 2] float32; mask [group * tokens, tokens] float32, where group = heads / kv_heads; keys
    and values, the whole KV cache [slots, kv_heads, capacity, head_dim]; then the weights of each block.
    Outputs: hidden; the new keys and values [applications, kv_heads, tokens, head_dim] float32, in execution order.
    """
    glue = Nodes()
    prefixes = [f"block{place}." for place in range(len(form.blocks))]
    past = glue.add("Unsqueeze", "position", glue.ints([0]), out="past")
    glue.add("Concat", past, glue.add("Shape", "cos", start=1, end=2), axis=0, out="past_and_new")
    base = glue.add("Constant")
    glue.protos[-1].attribute.add(name="value_int", ref_attr_name="slot_base", type=AttributeProto.INT)
    blocks = [
        Block(config, prefix, {g: [Multiplier.prepare(glue, m) for m in matrices] for g, matrices in held.items()})
        for prefix, schemes in zip(prefixes, form.blocks, strict=True)
        for held in [block_matrices(config, schemes, prefix)]
    ]
    body = _loop_body(config, form, glue, blocks, base)
    outputs = [FIXED_OUTPUTS[0], "looped_keys", "looped_values"]
    glue.protos.append(helper.make_node("Loop", ["loops", "", "hidden"], outputs, body=body))
    for looped, out in zip(outputs[1:], FIXED_OUTPUTS[1:], strict=True):
        # [loops, blocks, kv_heads, tokens, head_dim] -> [loops * blocks, 1, ...]: 0 keeps the tokens' extent.
        rows = glue.add("Reshape", looped, glue.ints([-1, 1, config.num_kv_heads, 0, config.head_dim]))
        glue.add("Squeeze", rows, glue.ints([1]), out=out)
    return helper.make_function(
        DOMAIN,
        OP,
        form.inputs(config, prefixes),
        list(FIXED_OUTPUTS),
        glue.protos,
        _imports(),
        list(attributes),
        overload=overload,
        doc_string="Applies the blocks of a stage in order, `loops` times; docs/onnx.md.",
    )


def head_attributes(config: ModelConfig, normed: bool) -> dict[str, Any]:
    """What a kernel for the head must know; the body itself reads none of it."""
    return {
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.rms_norm_eps,
        "normed": int(normed),
    }


def head_function(config: ModelConfig, scheme: str, normed: bool, attributes: Sequence[str]) -> FunctionProto:
    """The function of the head.

    Inputs: hidden [rows, hidden] float32; the final norm, where `normed`; the parts of the matrix [vocab, hidden].
    Output: logits [rows, vocab] float32.
    """
    nodes = Nodes()
    matrix = Matrix("matrix", scheme, config.vocab_size, config.hidden_size)
    hidden = rms_norm(nodes, config, "hidden", "final_norm") if normed else "hidden"
    nodes.add("Identity", project(nodes, hidden, [Multiplier.prepare(nodes, matrix)]), out="logits")
    return helper.make_function(
        DOMAIN,
        HEAD,
        ["hidden", *(["final_norm"] if normed else []), *matrix.inputs],
        ["logits"],
        nodes.protos,
        _imports(),
        list(attributes),
        doc_string="The final norm and the logits; docs/onnx.md.",
    )


def _imports() -> list[OperatorSetIdProto]:
    """The operator sets that a function's body uses."""
    return [helper.make_opsetid(domain, version) for domain, version in OPSETS.items() if domain != DOMAIN]


def _loop_body(config: ModelConfig, form: StageForm, glue: Nodes, blocks: list[Block], base: str) -> Any:
    """The graph of one loop: every block once, then damping and the norm at the loop's end."""
    nodes = glue.inner()
    first = nodes.add("Add", base, nodes.add("Mul", "iteration", nodes.ints([len(blocks)])))
    hidden, keys, values = "entered", [], []
    for place, block in enumerate(blocks):
        past = past_of(nodes, nodes.add("Add", first, nodes.ints([place])))
        hidden, key, value = block.apply(nodes, hidden, past)
        keys.append(key)
        values.append(value)
    if form.damping != 1.0:
        step = nodes.add("Mul", nodes.add("Sub", hidden, "entered"), nodes.number(form.damping))
        hidden = nodes.add("Add", "entered", step)
    if form.loop_end_norm:
        hidden = rms_norm(nodes, config, hidden, "final_norm")
    nodes.add("Identity", hidden, out="left")
    nodes.add("Identity", "go_on", out="goes_on")
    nodes.add("Concat", *keys, axis=0, out="loop_keys")
    nodes.add("Concat", *values, axis=0, out="loop_values")
    scalar = [helper.make_tensor_value_info("iteration", TensorProto.INT64, [])]
    scalar.append(helper.make_tensor_value_info("go_on", TensorProto.BOOL, []))
    state: Shape = ["tokens", config.hidden_size]
    rows: Shape = [len(blocks), config.num_kv_heads, "tokens", config.head_dim]
    return helper.make_graph(
        nodes.protos,
        "loop",
        [*scalar, helper.make_tensor_value_info("entered", TensorProto.FLOAT, state)],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("left", TensorProto.FLOAT, state),
            helper.make_tensor_value_info("loop_keys", TensorProto.FLOAT, rows),
            helper.make_tensor_value_info("loop_values", TensorProto.FLOAT, rows),
        ],
    )
