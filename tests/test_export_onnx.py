"""The ONNX exporter and its session: the file's structure, and its logits against the PyTorch reference."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper
from safetensors.numpy import load_file

from mobileloop.artifact import ArtifactInfo
from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError
from mobileloop.packed import PackedModel
from mobileloop.quant.schemes import SCHEMES, QuantTensor
from mobileloop.reference.model import ReferenceModel
from mobileloop.runtimes.onnx import OnnxSession
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule, Stage
from mobileloop_export.onnx import model as exporter
from mobileloop_export.onnx.block import GROUPS

DATA = Path(__file__).parent / "data"
CONFIG = ModelConfig(
    vocab_size=101, hidden_size=64, intermediate_size=96, num_blocks=3, num_heads=4, num_kv_heads=2, head_dim=16
)
SCHEDULES = {
    "plain": Schedule.plain(3),
    "immediate": Schedule.immediate(3, 2),
    "all": Schedule.repeat_all_over(3, 2),
    "damped": Schedule.damped_range(3, 1, 1, 2, 0.5),
    "loop_end_norm": Schedule.repeat_all_over(3, 2, loop_end_norm=True),
}
QUANTIZATIONS = ("none", "int4", "int4-symmetric", "int8")
TOKENS = [3, 17, 99, 0, 42, 8, 8, 61, 100, 5]
# Quantized products take int8 activations, whose steps are 1/127 of the largest of 32 values.
TOLERANCE = {"none": 1e-4, "int4": 0.2, "int4-symmetric": 0.2, "int8": 0.2}

F32 = NDArray[np.float32]


def pack(schedule: Schedule, quantization: str, config: ModelConfig = CONFIG) -> tuple[Checkpoint, PackedModel]:
    checkpoint = random_model(config, schedule)
    return checkpoint, PackedModel.from_checkpoint(checkpoint, quantization)


def export(checkpoint: Checkpoint, packed: PackedModel, path: Path, kv_bits: int | None = None) -> Path:
    bits = kv_bits or (32 if packed.quantization == "none" else 16)
    info = ArtifactInfo.describe(checkpoint, packed, context=32, kv_bits=bits)
    exporter.write(packed, info, path, lambda step, share: None)
    return path


def test_an_eight_bit_cache_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint, packed = pack(Schedule.plain(CONFIG.num_blocks), "int4")
    with pytest.raises(MobileloopError, match="the export asks for a KV cache of 8 bits, which onnx does not run"):
        export(checkpoint, packed, tmp_path / "model.onnx", kv_bits=8)


def reference(packed: PackedModel, tokens: list[int], loops: int | None = None) -> F32:
    model = ReferenceModel(packed.config, packed.schedule, packed.dequantized())
    logits: F32 = model.forward(torch.tensor([tokens]), loops=loops).numpy()[0]
    return logits


def stock(path: Path, loops: int | None = None) -> OnnxSession:
    """A session of the portable body, whether or not our kernels were built."""
    return OnnxSession(path, threads=1, loops=loops, kernel="stock")


def chunked(session: OnnxSession, tokens: list[int], sizes: list[int]) -> F32:
    session.reset()
    bounds = np.cumsum([0, *sizes])
    return np.concatenate([session.logits(tokens[a:b]) for a, b in pairwise(bounds)])


def in_float(path: Path) -> Path:
    """The same file with products in float32, so that only the stored weights decide the logits."""
    model = onnx.load(path)
    for node in all_nodes(model):
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    changed = path.with_name("float.onnx")
    onnx.save(model, changed)
    return changed


def subgraphs(nodes: list[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield attribute.g
                yield from subgraphs(list(attribute.g.node))


def all_nodes(model: ModelProto) -> Iterator[onnx.NodeProto]:
    roots = [list(model.graph.node), *(list(function.node) for function in model.functions)]
    for nodes in roots:
        yield from nodes
        for graph in subgraphs(nodes):
            yield from graph.node


# -- golden numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cached"),
    [("mobilellm_base", "logits_cached_decode"), ("mobilellm_ls", "logits_cached_decode_two_slots")],
)
def test_golden_prefill_and_cached_decode(name: str, cached: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(DATA / name / "model"))
    golden = load_file(DATA / name / "io.safetensors")
    packed = PackedModel.from_checkpoint(checkpoint, "none")
    session = stock(export(checkpoint, packed, tmp_path / "model.onnx"))
    for batch, row in enumerate(golden["input_ids"]):
        tokens = row.tolist()
        session.reset()
        np.testing.assert_allclose(session.logits(tokens), golden["logits"][batch], atol=1e-4)
        step_by_step = chunked(session, tokens, [1] * len(tokens))
        np.testing.assert_allclose(step_by_step, golden[cached][batch], atol=1e-4)


# -- against the reference -------------------------------------------------------------------------


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_matches_reference(schedule: str, quantization: str, tmp_path: Path) -> None:
    checkpoint, packed = pack(SCHEDULES[schedule], quantization)
    session = stock(export(checkpoint, packed, tmp_path / "model.onnx"))
    expected = reference(packed, TOKENS)
    whole = session.logits(TOKENS)
    np.testing.assert_allclose(whole, expected, atol=TOLERANCE[quantization])
    np.testing.assert_allclose(chunked(session, TOKENS, [1] * 10), expected, atol=TOLERANCE[quantization])
    np.testing.assert_allclose(chunked(session, TOKENS, [4, 5, 1]), expected, atol=TOLERANCE[quantization])
    session.reset()
    np.testing.assert_allclose(session.prefill(TOKENS), whole[-1], atol=1e-5)


@pytest.mark.parametrize("quantization", ["int4", "int4-symmetric", "int8"])
def test_weights_lose_nothing(quantization: str, tmp_path: Path) -> None:
    """With float activations and a float32 cache, a quantized file is as exact as a float one, minimum included."""
    checkpoint, packed = pack(SCHEDULES["all"], quantization)
    path = in_float(export(checkpoint, packed, tmp_path / "model.onnx", kv_bits=32))
    expected = reference(packed, TOKENS)
    np.testing.assert_allclose(chunked(stock(path), TOKENS, [6, 1, 3]), expected, atol=1e-4)


@pytest.mark.parametrize("outer", ["int4", "int4-symmetric", "none"])
def test_schemes_may_differ_between_tensors(outer: str, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"tie_embeddings": False})
    checkpoint, packed = pack(SCHEDULES["immediate"], "int4", config)
    weights, tensors = checkpoint.tensors, dict(packed.tensors)
    chosen = {
        "blocks.0.v_proj": "int8",
        "blocks.1.k_proj": "int4-symmetric",
        "blocks.1.up_proj": "none",
        "blocks.1.down_proj": "int4-symmetric",
        "embedding": outer,
    }
    for name, scheme in chosen.items():
        weight = weights[name]
        assert not isinstance(weight, QuantTensor)
        tensors[name] = SCHEMES[scheme].quantize(weight)
    mixed = PackedModel(config, packed.schedule, "int4", tensors)
    path = export(checkpoint, mixed, tmp_path / "model.onnx", kv_bits=32)
    assert [function.name for function in onnx.load(path).functions] == ["loop"] * 3 + ["head"]
    expected = reference(mixed, TOKENS)
    np.testing.assert_allclose(stock(path).logits(TOKENS), expected, atol=0.2)
    np.testing.assert_allclose(stock(in_float(path)).logits(TOKENS), expected, atol=1e-4)


def test_interleaved_rope(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"rope_pairing": "interleaved", "rope_theta": 500.0, "num_kv_heads": 4})
    checkpoint, packed = pack(SCHEDULES["all"], "none", config)
    session = stock(export(checkpoint, packed, tmp_path / "model.onnx"))
    np.testing.assert_allclose(chunked(session, TOKENS, [7, 1, 1, 1]), reference(packed, TOKENS), atol=1e-4)


@pytest.mark.parametrize("make", [Schedule.immediate, Schedule.repeat_all_over])
def test_loops_at_run_time(make: type[Schedule], tmp_path: Path) -> None:
    checkpoint, packed = pack(make(3, 3), "none")
    path = export(checkpoint, packed, tmp_path / "model.onnx")
    session = stock(path, loops=3)
    for loops in (3, 1, 2):
        session.reset(loops)
        first, rest = session.logits(TOKENS[:6]), [session.logits([token]) for token in TOKENS[6:]]
        np.testing.assert_allclose(np.concatenate([first, *rest]), reference(packed, TOKENS, loops), atol=1e-4)
    with pytest.raises(MobileloopError, match="loops 4 is outside 1-3"):
        session.reset(4)
    with pytest.raises(MobileloopError, match="loops 0 is outside 1-3"):
        stock(path, loops=0)


def test_only_looped_stages_take_the_loop_count(tmp_path: Path) -> None:
    stages = (Stage(blocks=(2, 0)), Stage(blocks=(1,), loops=2, max_loops=4, loop_end_norm=True), Stage(blocks=(0,)))
    checkpoint, packed = pack(Schedule(name="mixed", stages=stages), "none")
    session = stock(export(checkpoint, packed, tmp_path / "model.onnx"))
    for loops in (2, 4):
        session.reset(loops)
        np.testing.assert_allclose(session.logits(TOKENS), reference(packed, TOKENS, loops), atol=1e-4)


def test_context_is_filled_and_then_refused(tmp_path: Path) -> None:
    checkpoint, packed = pack(SCHEDULES["plain"], "none")
    session = stock(export(checkpoint, packed, tmp_path / "model.onnx"))
    tokens = [7, 70] * 16
    np.testing.assert_allclose(chunked(session, tokens, [31, 1]), reference(packed, tokens), atol=1e-4)
    with pytest.raises(MobileloopError, match="context of 32"):
        session.decode(1)


# -- the file --------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_structure(schedule: str, tmp_path: Path) -> None:
    checkpoint, packed = pack(SCHEDULES[schedule], "int4")
    model = onnx.load(export(checkpoint, packed, tmp_path / "model.onnx"))
    onnx.checker.check_model(model)
    stages = packed.schedule.stages
    forms = {(len(stage.blocks), stage.damping, stage.loop_end_norm) for stage in stages}
    assert len(model.functions) == len(forms) + 1
    assert "mobileloop" in {opset.domain for opset in model.opset_import}
    for function in model.functions:
        assert (function.domain, function.name) in {("mobileloop", "loop"), ("mobileloop", "head")}
        assert [node.op_type for node in function.node].count("Loop") == (function.name == "loop")
    *calls, head = [node for node in model.graph.node if node.domain == "mobileloop"]
    assert head.op_type == "head"
    assert len(calls) == len(stages)
    for call, stage, base in zip(calls, stages, packed.schedule.slot_bases(), strict=True):
        held = {attribute.name: helper.get_attribute_value(attribute) for attribute in call.attribute}
        assert held["num_blocks"] == len(stage.blocks)
        assert held["slot_base"] == base
        assert held["damping"] == pytest.approx(stage.damping)
    bodies = [graph for function in model.functions for graph in subgraphs(list(function.node))]
    assert len(bodies) == len(forms)
    assert not any(graph.initializer or any(n.op_type == "Constant" for n in graph.node) for graph in bodies)
    names = [initializer.name for initializer in model.graph.initializer]
    assert len(names) == len(set(names))
    large = [initializer.raw_data for initializer in model.graph.initializer if len(initializer.raw_data) > 1024]
    assert len(large) == len(set(large))
    info = ArtifactInfo.parse(json.loads(model.metadata_props[0].value), "the file")
    assert info.schedule == packed.schedule


def test_stored_weights_are_the_sources(tmp_path: Path) -> None:
    for quantization in QUANTIZATIONS:
        checkpoint, packed = pack(SCHEDULES["plain"], quantization)
        model = onnx.load(export(checkpoint, packed, tmp_path / f"{quantization}.onnx"))
        parts = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        assert not any(name.startswith("head") for name in parts)
        np.testing.assert_array_equal(unpack(parts, "embedding"), packed.matrix("embedding").dequantize())
        for block in range(3):
            for group, names in GROUPS.items():
                expected = np.concatenate([packed.dequantized()[f"blocks.{block}.{name}"] for name in names])
                np.testing.assert_array_equal(unpack(parts, f"blocks.{block}.{group}"), expected)


def unpack(parts: dict[str, NDArray[np.generic]], name: str) -> F32:
    """A stored matrix as float32, by the words of docs/onnx.md."""
    codes = parts[f"{name}.codes"]
    if codes.dtype == np.float32:
        return codes.astype(np.float32)
    rows, groups, width = codes.shape
    if width == 16:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(rows, groups, 32)
    values = codes.astype(np.float32)
    scale = parts[f"{name}.scale"].astype(np.float32)[:, :, None]
    if f"{name}.minimum" in parts:
        values = values * scale + parts[f"{name}.minimum"].astype(np.float32)[:, :, None]
    else:
        values = (values - np.float32(8 if width == 16 else 128)) * scale
    return values.reshape(rows, groups * 32)


@pytest.mark.parametrize("make", [Schedule.immediate, Schedule.repeat_all_over])
def test_size_does_not_depend_on_max_loops(make: type[Schedule], tmp_path: Path) -> None:
    sizes = [export(*pack(make(3, loops), "int4"), tmp_path / f"{loops}.onnx").stat().st_size for loops in (1, 4)]
    assert abs(sizes[0] - sizes[1]) < 4096


def test_beyond_protobufs_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "MAX_BYTES", 1000)
    with pytest.raises(MobileloopError, match="at most 2 GB"):
        export(*pack(SCHEDULES["plain"], "int4"), tmp_path / "model.onnx")


# -- untrusted files -------------------------------------------------------------------------------


@pytest.fixture(name="artifact")
def _artifact(tmp_path: Path) -> Path:
    return export(*pack(SCHEDULES["plain"], "int4"), tmp_path / "model.onnx")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated(artifact: Path, share: float) -> None:
    data = artifact.read_bytes()
    artifact.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MobileloopError):
        stock(artifact)


def test_garbage(artifact: Path) -> None:
    artifact.write_bytes(np.random.default_rng(0).bytes(4096))
    with pytest.raises(MobileloopError, match="could not be loaded"):
        stock(artifact)


def test_metadata_missing_or_wrong(artifact: Path) -> None:
    model = onnx.load(artifact)
    data = json.loads(model.metadata_props[0].value)

    def refused(value: str | None, message: str) -> None:
        del model.metadata_props[:]
        if value is not None:
            model.metadata_props.add(key="mobileloop", value=value)
        onnx.save(model, artifact)
        with pytest.raises(MobileloopError, match=message):
            stock(artifact)

    refused(None, "no mobileloop metadata")
    refused("{", "not JSON")
    refused("[" * 100_000, "not JSON")
    refused(json.dumps({**data, "format_version": 99}), "format version 99")
    refused(json.dumps({**data, "kv_bits": 32}), "its metadata describe")
    refused(json.dumps({**data, "context": 1 << 20, "config": {**data["config"], "head_dim": 4096}}), "describe")


def test_metadata_is_not_utf8(artifact: Path) -> None:
    artifact.write_bytes(artifact.read_bytes().replace(b'{"format_version"', b'{"format_v\xff\xfesion"'))
    with pytest.raises(MobileloopError, match="not UTF-8"):
        stock(artifact)


def test_graph_is_no_artifact(artifact: Path) -> None:
    model = onnx.load(artifact)
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [other])
    small = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    small.metadata_props.extend(model.metadata_props)
    onnx.save(small, artifact)
    with pytest.raises(MobileloopError, match="other inputs or outputs"):
        stock(artifact)


def test_session_says_what_it_is(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = stock(artifact)
    assert session.runtime == "onnx"
    assert session.details()["path"] == "portable function body"
    session.close()
    with pytest.raises(MobileloopError, match="closed"):
        session.decode(1)
    with pytest.raises(MobileloopError, match="threads -1"):
        OnnxSession(artifact, threads=-1, kernel="stock")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MobileloopError, match=r"\.\[onnx\]"):
        stock(artifact)


def test_the_example_in_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, packed = pack(SCHEDULES["immediate"], "int4")
    session = stock(export(checkpoint, packed, tmp_path / "model.onnx"))
    text = (Path(__file__).parents[1] / "docs" / "onnx.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    scope: dict[str, list[int]] = {}
    exec(code, scope)  # our own document
    expected = [int(session.prefill([3, 17, 99]).argmax())]
    while len(expected) < 8:
        expected.append(int(session.decode(expected[-1]).argmax()))
    assert scope["generated"] == expected
