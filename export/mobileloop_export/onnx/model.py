"""The ONNX exporter: one file that stock onnxruntime runs, loops and KV slots included (docs/onnx.md).

Every stage of the schedule is one call of a model-local function whose body is one `Loop` (`stage`), and the
head is a call too; the loop count is a graph input, so the file does not grow with it. Weights are initializers of
the outer graph, each stored once, scales and minimums as the float16 of the source.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import FunctionProto, ModelProto, TensorProto, ValueInfoProto, helper

from mobileloop.artifact import ArtifactInfo
from mobileloop.errors import MobileloopError
from mobileloop.packed import PackedModel
from mobileloop.spec.capabilities import check_built
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Stage
from mobileloop_export.contract import Progress, check_carried
from mobileloop_export.onnx.block import NORMS
from mobileloop_export.onnx.nodes import Matrix, Nodes, look_up, stored, tensor
from mobileloop_export.onnx.stage import (
    DOMAIN,
    HEAD,
    OP,
    OPSETS,
    Shape,
    StageForm,
    head_attributes,
    head_function,
    stage_function,
    stored_block,
)

METADATA_KEY = "mobileloop"
IR_VERSION = 11
MAX_BYTES = (1 << 31) - 1  # protobuf's limit for one message
_GRAPH_ROOM = 1 << 24  # nodes and names, generously


def write(packed: PackedModel, info: ArtifactInfo, path: Path, progress: Progress) -> None:
    """Write the artifact.

    Args:
        packed: the quantized model.
        info: goes into the file's metadata.
        path: of the new file.
        progress: called with a step's name and the share done.

    Raises:
        MobileloopError: where the schedule cannot run yet, or the model is beyond 2 GB.
    """
    check_built(packed.schedule)
    check_carried(packed, info, "onnx")
    metadata = info.model_dump_json()
    size = packed.weight_bytes() + len(metadata.encode())
    if size + _GRAPH_ROOM > MAX_BYTES:
        raise MobileloopError(
            f"{packed.config.name} takes {size / 1e9:.1f} GB, but one .onnx file holds at most 2 GB; quantize to fewer "
            "bits or export to another format."
        )
    model = _model(packed, info, progress)
    model.metadata_props.add(key=METADATA_KEY, value=metadata)
    progress("writing the file", 0.0)
    path.write_bytes(model.SerializeToString())
    progress("writing the file", 1.0)


def _model(packed: PackedModel, info: ArtifactInfo, progress: Progress) -> ModelProto:
    config = packed.config
    nodes = Nodes()
    embedding = _outer_matrix(packed, "embedding")
    head = embedding if config.tie_embeddings else _outer_matrix(packed, "head")
    hidden = look_up(nodes, embedding, "tokens")
    _once_for_all(nodes, config)
    functions, hidden, rows = _stages(packed, nodes, hidden)
    functions.append(_logits(packed, nodes, head, hidden))
    kv_type = TensorProto.FLOAT16 if info.kv_bits == 16 else TensorProto.FLOAT
    for name, parts in rows.items():
        nodes.add("Cast", nodes.add("Concat", *parts, axis=0), to=kv_type, out=name)
    inputs, outputs = _interface(packed, kv_type)
    graph = helper.make_graph(nodes.protos, config.name, inputs, outputs, doc_string=f"{packed.schedule.name} schedule")
    graph.initializer.extend(_initializers(packed, {embedding, head}, progress))
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=IR_VERSION)
    model.producer_name, model.producer_version, model.domain = "mobileloop", info.tool_version, DOMAIN
    return model


def _outer_matrix(packed: PackedModel, name: str) -> Matrix:
    source = packed.matrix(name)
    return Matrix(name, source.scheme, *source.shape)


def _once_for_all(nodes: Nodes, config: ModelConfig) -> None:
    """What no stage changes: `cos` and `sin` [1, tokens, head_dim / 2] of the new tokens' positions, and `mask`.

    `mask` [group * tokens, tokens] is -inf where a new token lies in another's future, else 0, once for each of the
    group = heads / kv_heads query heads that share a key.
    """
    half = np.arange(0, config.head_dim, 2, dtype=np.float32)
    inverse = np.float32(1) / np.float32(config.rope_theta) ** (half / np.float32(config.head_dim))
    frequencies = nodes.add("Constant", value=tensor("", inverse))
    count = nodes.add("Size", "tokens")
    positions = nodes.add("Range", "position", nodes.add("Add", "position", count), nodes.integer(1))
    column = nodes.add("Unsqueeze", nodes.add("Cast", positions, to=TensorProto.FLOAT), nodes.ints([0, 2]))
    angles = nodes.add("Mul", column, frequencies)
    nodes.add("Cos", angles, out="cos")
    nodes.add("Sin", angles, out="sin")
    extent = nodes.add("Shape", "tokens")
    never = tensor("", np.array([-np.inf], np.float32))
    square = nodes.add("ConstantOfShape", nodes.add("Concat", extent, extent, axis=0), value=never)
    future = nodes.add("Trilu", square, nodes.integer(1), upper=1)
    nodes.add("Tile", future, nodes.ints([config.num_heads // config.num_kv_heads, 1]), out="mask")


def _stages(packed: PackedModel, nodes: Nodes, hidden: str) -> tuple[list[FunctionProto], str, dict[str, list[str]]]:
    """A call for every stage; functions, the last hidden state and the new keys' and values' names."""
    config, schedule = packed.config, packed.schedule
    functions: dict[StageForm, FunctionProto] = {}
    rows: dict[str, list[str]] = {"new_keys": [], "new_values": []}
    counts: dict[tuple[int, int], str] = {}
    for number, (stage, slot_base) in enumerate(zip(schedule.stages, schedule.slot_bases(), strict=True)):
        form = StageForm.of(packed, stage)
        attributes = form.attributes(config, stage, slot_base)
        if form not in functions:
            functions[form] = stage_function(config, form, list(attributes), overload=f"form{len(functions)}")
        inputs = form.inputs(config, [f"blocks.{block}." for block in stage.blocks])
        inputs[0] = hidden
        inputs[1] = _loops_of(nodes, stage, counts)
        hidden, *new = outputs = [f"stage{number}.{name}" for name in ("hidden", *rows)]
        node = helper.make_node(OP, inputs, outputs, domain=DOMAIN, name=f"stage{number}", **attributes)
        node.overload = functions[form].overload
        nodes.protos.append(node)
        for names, name in zip(rows.values(), new, strict=True):
            names.append(name)
    return list(functions.values()), hidden, rows


def _loops_of(nodes: Nodes, stage: Stage, counts: dict[tuple[int, int], str]) -> str:
    """How often a stage runs: its own count where the input `loops` is 0, else `loops` up to the stage's bound."""
    if stage.max_loops == 1:
        return nodes.integer(1)
    key = (stage.loops, stage.max_loops)
    if key not in counts:
        own = nodes.add("Equal", "loops", nodes.integer(0))
        bounded = nodes.add("Min", "loops", nodes.integer(stage.max_loops))
        counts[key] = nodes.add("Where", own, nodes.integer(stage.loops), bounded)
    return counts[key]


def _logits(packed: PackedModel, nodes: Nodes, head: Matrix, hidden: str) -> FunctionProto:
    """`logits` [tokens - logits_from, vocab]; the head is a fifth of the weights, so a prefill asks for one row."""
    start = nodes.add("Unsqueeze", "logits_from", nodes.ints([0]))
    hidden = nodes.add("Slice", hidden, start, nodes.ints([np.iinfo(np.int64).max]), nodes.ints([0]))
    normed = not packed.schedule.stages[-1].loop_end_norm  # else it was the last thing the stage did
    inputs = [hidden, *(["final_norm"] if normed else []), *head.inputs]
    attributes = head_attributes(packed.config, normed)
    nodes.protos.append(helper.make_node(HEAD, inputs, ["logits"], domain=DOMAIN, name=HEAD, **attributes))
    return head_function(packed.config, head.scheme, normed, list(attributes))


def _interface(packed: PackedModel, kv_type: int) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
    """Inputs and outputs of the graph, with shapes."""
    config = packed.config
    make = helper.make_tensor_value_info
    cache: Shape = [packed.schedule.num_slots, config.num_kv_heads, "capacity", config.head_dim]
    rows: Shape = ["applications", config.num_kv_heads, "tokens", config.head_dim]
    inputs = [make("tokens", TensorProto.INT64, ["tokens"])]
    inputs += [make(name, TensorProto.INT64, []) for name in ("position", "loops", "logits_from")]
    inputs += [make(name, kv_type, cache) for name in ("keys", "values")]
    outputs = [make("logits", TensorProto.FLOAT, ["rows", config.vocab_size])]
    outputs += [make(name, kv_type, rows) for name in ("new_keys", "new_values")]
    return inputs, outputs


def _initializers(packed: PackedModel, outer: set[Matrix], progress: Progress) -> list[TensorProto]:
    """Every tensor that the schedule reads, once."""
    protos = [tensor("final_norm", packed.vector("final_norm"))]
    blocks = sorted({block for stage in packed.schedule.stages for block in stage.blocks})
    for done, block in enumerate(blocks):
        prefix = f"blocks.{block}."
        protos += [tensor(prefix + norm, packed.vector(prefix + norm)) for norm in NORMS]
        protos += stored_block(packed, block, prefix)
        progress("packing the blocks", (done + 1) / len(blocks))
    for matrix in sorted(outer, key=lambda matrix: matrix.name):
        protos += stored(matrix, [packed.matrix(matrix.name)])
    return protos
