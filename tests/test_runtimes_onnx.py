"""The ONNX kernels: the same file with them and without, hostile graphs, and what happens where they were not built."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import TINY, packed_model, same_bits, schedules, write_engine
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mobileloop.artifact import ArtifactInfo
from mobileloop.errors import MobileloopError
from mobileloop.packed import PackedModel
from mobileloop.quant.schemes import SCHEMES
from mobileloop.runtimes import native, open_session
from mobileloop.runtimes import onnx as runtime
from mobileloop.runtimes.onnx import ENGINE_PATH, STOCK_PATH, OnnxSession
from mobileloop.spec.schedule import Schedule
from mobileloop_export.onnx import model as exporter

TOKENS = [3, 17, 66, 0, 42, 8, 8, 61, 60, 5]
# Between the two paths, over logits of a few units: float32 order for `none`, rounded activations and keys else.
TOLERANCE = {"none": 1e-3, "int4": 0.05, "int4-symmetric": 0.05, "int8": 0.05}

needs_kernels = pytest.mark.skipif(
    not (native.library_folder() / runtime.OPERATORS).is_file(),
    reason="the ONNX kernels were not built: the headers of ONNX Runtime were not there (docs/onnx.md)",
)


def write(path, checkpoint, packed, context=64, kv_bits=32):
    info = ArtifactInfo.describe(checkpoint, packed, context, kv_bits)
    exporter.write(packed, info, path, lambda step, share: None)
    return path


@pytest.fixture(name="pair")
def _pair(tmp_path):
    """make(schedule, quantization, ...) -> an .onnx artifact and the engine's of the same packed model."""

    def make(schedule=None, quantization="int4", config=TINY, context=64, kv_bits=16, change=None):
        checkpoint, packed = packed_model(config, schedule, quantization)
        packed = change(packed) if change else packed
        paths = tmp_path / "model.onnx", tmp_path / "model.safetensors"
        write(paths[0], checkpoint, packed, context, kv_bits)
        return paths[0], write_engine(paths[1], checkpoint, packed, context, kv_bits)

    return make


def steps(session, tokens=TOKENS, sizes=(4, 1, 1, 3, 1)):
    """Logits of all tokens, run in pieces."""
    session.reset()
    pieces, done = [], 0
    for size in sizes:
        pieces.append(session.logits(tokens[done : done + size]))
        done += size
    return np.concatenate(pieces)


# -- the same file, three ways -----------------------------------------------------------------------


@needs_kernels
@pytest.mark.parametrize("quantization", TOLERANCE)
@pytest.mark.parametrize("schedule", schedules())
def test_kernels_are_the_engine_and_near_the_body(schedule, quantization, pair):
    path, engine_path = pair(schedules()[schedule], quantization, kv_bits=32 if quantization == "none" else 16)
    session = OnnxSession(path, threads=2, kernel="engine")
    assert session.details()["path"] == ENGINE_PATH
    kernels = steps(session)
    assert same_bits(kernels, steps(open_session(engine_path, threads=1)))
    np.testing.assert_allclose(kernels, steps(OnnxSession(path, 1, kernel="stock")), atol=TOLERANCE[quantization])
    session.reset()
    assert same_bits(session.prefill(TOKENS), session_last(engine_path))


def session_last(path):
    return open_session(path, threads=2).prefill(TOKENS)


@needs_kernels
@pytest.mark.parametrize("make", [Schedule.immediate, Schedule.repeat_all_over])
def test_loops_at_run_time(make, pair):
    path, engine_path = pair(make(3, 4))
    session, engine, stock = (
        OnnxSession(path, 1, kernel="engine"),
        open_session(engine_path),
        OnnxSession(path, 1, kernel="stock"),
    )
    for loops in (1, 4, 2):
        for each in (session, engine, stock):
            each.reset(loops)
        assert same_bits(steps(session), steps(engine))
        np.testing.assert_allclose(steps(session), steps(stock), atol=TOLERANCE["int4"])


@needs_kernels
def test_schemes_may_differ_and_the_head_may_stand_alone(pair):
    config = TINY.model_copy(update={"tie_embeddings": False, "rope_pairing": "interleaved", "rope_theta": 500.0})
    chosen = {"blocks.0.v_proj": "int8", "blocks.1.up_proj": "none", "blocks.2.down_proj": "int4-symmetric"}
    chosen.update({"embedding": "int4", "head": "int4-symmetric"})

    def mixed(packed):
        floats = packed.dequantized()
        tensors = {**packed.tensors, **{name: SCHEMES[s].quantize(floats[name]) for name, s in chosen.items()}}
        return PackedModel(packed.config, packed.schedule, packed.quantization, tensors)

    path, engine_path = pair(config=config, change=mixed)
    session = OnnxSession(path, 1, kernel="engine")
    assert same_bits(steps(session), steps(open_session(engine_path)))
    np.testing.assert_allclose(steps(session), steps(OnnxSession(path, 1, kernel="stock")), atol=TOLERANCE["int4"])


@needs_kernels
def test_a_prompt_longer_than_one_call(pair):
    path, engine_path = pair(schedules()["all"], context=300)
    tokens = [(7 * i) % TINY.vocab_size for i in range(290)]
    session = OnnxSession(path, 2, kernel="engine")
    assert same_bits(session.prefill(tokens), open_session(engine_path).prefill(tokens))
    assert same_bits(session.decode(3), (steps(open_session(engine_path), [*tokens, 3], (290, 1)))[-1])


@needs_kernels
def test_sessions_beside_each_other(pair):
    """Sessions with as many threads share a pool, others do not; either way each gets its own results."""
    path, engine_path = pair(schedules()["immediate"])
    expected = steps(open_session(engine_path, threads=1))
    sessions = [OnnxSession(path, count, kernel="engine") for count in (1, 2, 2, 3)]
    results = [None] * len(sessions)

    def run(index):
        results[index] = [steps(sessions[index]) for _ in range(5)]

    workers = [threading.Thread(target=run, args=(index,)) for index in range(len(sessions))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(same_bits(found, expected) for each in results for found in each)
    for session in sessions[:3]:
        session.close()
    assert same_bits(steps(sessions[3]), expected)


# -- which of the two ----------------------------------------------------------------------------------


def test_the_choice_is_told(pair, monkeypatch, tmp_path):
    path, engine_path = pair()
    stock = open_session(path, threads=1, onnx_kernel="stock")
    assert stock.details()["path"] == STOCK_PATH
    assert stock.title() == "onnx, portable function body"
    assert open_session(engine_path, onnx_kernel="stock").title() == "engine"
    with pytest.raises(MobileloopError, match="'fast' is not known; choose one of auto, engine, stock"):
        open_session(path, onnx_kernel="fast")
    monkeypatch.setattr(native, "library_folder", lambda: tmp_path)
    runtime._operators.cache_clear()
    try:
        assert open_session(path, threads=1).details()["path"] == STOCK_PATH
        with pytest.raises(MobileloopError, match="built without its ONNX kernels, because the headers"):
            open_session(path, onnx_kernel="engine")
        runtime.preload()
        (tmp_path / runtime.OPERATORS).write_bytes(b"no library")
        runtime._operators.cache_clear()
        with pytest.raises(MobileloopError, match="cannot be loaded"):
            open_session(path)
    finally:
        runtime._operators.cache_clear()


@needs_kernels
def test_auto_takes_the_kernels(pair):
    path, _ = pair()
    session = open_session(path, threads=1)
    assert session.title() == "onnx, engine kernels"
    assert session.details()["kernels"] == native.kernels()


@needs_kernels
def test_cpus(pair):
    path, _ = pair()
    cpu = min(os.sched_getaffinity(0))
    session, free = open_session(path, threads=2, cpus=[cpu]), open_session(path, threads=2)
    assert session.details()["cpus"] == str(cpu)
    assert "cpus" not in free.details()
    workers = [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")]
    assert {cpu} in workers
    assert same_bits(steps(session), steps(free))
    changed(path, lambda model: inline(model, {"head", "loop"}))
    with pytest.raises(MobileloopError, match="onnxruntime's own threads"):
        open_session(path, cpus=[cpu])


@needs_kernels
def test_a_file_without_our_functions(pair):
    """As of a version before the head was a function, and as of another tool."""
    path, _ = pair()
    changed(path, lambda model: inline(model, {"head"}))
    assert open_session(path, threads=1).details()["path"] == f"{ENGINE_PATH} for 1 of 2 calls"
    changed(path, lambda model: inline(model, {"loop"}))
    assert open_session(path, threads=1).details()["path"] == STOCK_PATH
    with pytest.raises(MobileloopError, match="no node that the ONNX kernels take over"):
        open_session(path, onnx_kernel="engine")


def changed(path, change):
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def inline(model, names):
    """Calls of these functions become calls of functions of another domain."""
    for each in (*model.functions, *model.graph.node):
        name = each.op_type if isinstance(each, NodeProto) else each.name
        if each.domain == "mobileloop" and name in names:
            each.domain = "elsewhere"
    if not any(opset.domain == "elsewhere" for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid("elsewhere", 1))


# -- untrusted files and callers -----------------------------------------------------------------------


def call(model, op="loop"):
    return next(node for node in model.graph.node if node.op_type == op)


def set_attribute(name, value, op="loop"):
    def change(model):
        node = call(model, op)
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend(kept)
        if value is not None:
            node.attribute.append(helper.make_attribute(name, value))

    return change


def replace(name, array):
    def change(model):
        initializer = next(each for each in model.graph.initializer if each.name == name)
        initializer.CopyFrom(numpy_helper.from_array(array, name))

    return change


def as_graph_input(name):
    """The weight stays, but may be overridden by the caller, so it is no constant."""

    def change(model):
        held = next(each for each in model.graph.initializer if each.name == name)
        model.graph.input.append(helper.make_tensor_value_info(name, held.data_type, held.dims))

    return change


def constant_cache(model):
    call(model).input[6] = "constant_keys"
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((3, 2, 64, 16), np.float16), "constant_keys"))


def inputs_from(count, op="loop"):
    def change(model):
        names = list(call(model, op).input)[:count]
        del call(model, op).input[:]
        call(model, op).input.extend(names)

    return change


def one_more_input(model):
    call(model).input.append("final_norm")


CODES, SCALE = "blocks.0.qkv_proj.codes", "blocks.0.qkv_proj.scale"
ROWS = (TINY.num_heads + 2 * TINY.num_kv_heads) * TINY.head_dim
HOSTILE = {
    "no blocks": (set_attribute("num_blocks", 0), "num_blocks is 0"),
    "more blocks than weights": (set_attribute("num_blocks", 4), "too few for its weights"),
    "fewer blocks than weights": (set_attribute("num_blocks", 2), "inputs where"),
    "a huge hidden size": (set_attribute("hidden_size", 1 << 40), "hidden_size is"),
    "another hidden size": (set_attribute("hidden_size", 32), "no norm of 32"),
    "no heads": (set_attribute("num_heads", 0), "num_heads is 0"),
    "other heads": (set_attribute("num_heads", 8), "rows where"),
    "heads that do not divide": (set_attribute("num_kv_heads", 3), "rows where"),
    "another head size": (set_attribute("head_dim", 15), "rows where"),
    "another width": (set_attribute("intermediate_size", 64), "codes in input"),
    "too many slots": (set_attribute("max_loops", 1 << 20), "more than 1048576 KV slots"),
    "no rotary base": (set_attribute("rope_theta", 0.0), "rotary base is not a positive number"),
    "an infinite epsilon": (set_attribute("rms_norm_eps", float("inf")), "norm epsilon"),
    "another pairing": (set_attribute("rope_pairing", "both"), "neither half nor interleaved"),
    "a long pairing": (set_attribute("rope_pairing", "half" * 9), "rope_pairing is missing or of another type"),
    "no pairing": (set_attribute("rope_pairing", None), "rope_pairing is missing"),
    "no damping": (set_attribute("damping", None), "damping is missing"),
    "a negative slot": (set_attribute("slot_base", -1), "slot_base is -1"),
    "no loops": (set_attribute("max_loops", 0), "max_loops is 0"),
    "a wrong type of attribute": (set_attribute("max_loops", "two"), "max_loops is missing or of another type"),
    "a norm at the loop's end without its norm": (set_attribute("loop_end_norm", 1), "too few for its weights"),
    "codes of another width": (replace(CODES, np.zeros((ROWS, 2, 8), np.uint8)), "16 or 32"),
    "codes of another type": (replace(CODES, np.zeros((ROWS, 2, 16), np.int8)), "type that no operator"),
    "codes of another rank": (replace(CODES, np.zeros(ROWS, np.uint8)), "16 or 32"),
    "no codes": (replace(CODES, np.zeros((0, 2, 16), np.uint8)), "has no rows"),
    "float codes of another width": (replace(CODES, np.zeros((ROWS, 63), np.float32)), "64 columns"),
    "scales of another type": (replace(SCALE, np.zeros((ROWS, 2), np.float32)), "not float16"),
    "scales of another shape": (replace(SCALE, np.zeros((ROWS, 3), np.float16)), "not float16 of shape"),
    "weights that may change": (as_graph_input(CODES), "no constant of the file"),
    "a constant cache": (constant_cache, "KV cache is a constant"),
    "no weights": (inputs_from(9), "no norm of|too few"),
    "one input too many": (one_more_input, "inputs where"),
    "another vocabulary": (set_attribute("vocab_size", 66, "head"), "67 rows where 66"),
    "a head of another size": (set_attribute("hidden_size", 96, "head"), "no norm of 96"),
    "a head without its norm": (set_attribute("normed", 0, "head"), "does not have 64 columns"),
    "a head without weights": (inputs_from(2, "head"), "too few for its weights"),
}  # fmt: skip


@needs_kernels
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_graphs_are_refused(case, pair):
    path, _ = pair()
    change, message = HOSTILE[case]
    changed(path, change)
    with pytest.raises(MobileloopError, match=message) as caught:
        OnnxSession(path, threads=1, kernel="engine")
    assert "\n" not in str(caught.value)


@needs_kernels
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("damping", 2.0, "damping is outside"),
        ("damping", float("nan"), "damping is outside"),
        ("slot_base", 1, "too small for the slots 1 to 3"),
        ("max_loops", 2, "too small for the slots 0 to 5"),
    ],
)
def test_hostile_graphs_are_refused_when_they_run(name, value, message, pair):
    path, _ = pair()
    changed(path, set_attribute(name, value))
    session = OnnxSession(path, threads=1, kernel="engine")
    with pytest.raises(MobileloopError, match=message):
        session.prefill([1, 2])


@needs_kernels
def test_random_damage_is_refused_or_runs(pair):
    """Whatever one changed number in the calls does, it ends in a sentence or in logits, never in a crash."""
    path, _ = pair(schedules()["mixed"])
    whole = path.read_bytes()
    draw = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        model = onnx.ModelProto.FromString(whole)
        nodes = [node for node in model.graph.node if node.domain == "mobileloop"]
        node = nodes[draw.integers(len(nodes))]
        attribute = node.attribute[draw.integers(len(node.attribute))]
        if attribute.type == onnx.AttributeProto.INT:
            attribute.i = int(draw.choice([-(2**63), -1, 0, 1, 2, 3, 64, 4096, 2**24, 2**31, 2**32 + 1, 2**63 - 1]))
        elif attribute.type == onnx.AttributeProto.FLOAT:
            attribute.f = float(draw.choice([0.0, -1.0, 1e-38, np.inf, np.nan, 1e38]))
        else:
            place = int(draw.integers(len(node.input)))
            node.input[place] = nodes[0].input[draw.integers(len(nodes[0].input))]
        onnx.save(model, path)
        try:
            steps(OnnxSession(path, threads=1, kernel="engine"))
        except MobileloopError:
            refused += 1
    assert refused > 10


@needs_kernels
def test_hostile_callers(pair):
    """What a program may feed a session that has registered the kernels."""
    path, _ = pair(schedules()["immediate"])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(native.library_folder() / runtime.OPERATORS))
    session = onnxruntime.InferenceSession(str(path), options)
    cache = np.zeros((6, 2, 8, 16), np.float16)
    good = {"tokens": np.array([1, 2]), "position": np.array(0), "loops": np.array(2), "logits_from": np.array(0)}
    good.update(keys=cache, values=cache.copy())
    assert session.run(None, good)[0].shape == (2, TINY.vocab_size)
    for name, value, message in (
        ("position", -1, "position -1"),
        ("position", 7, "beyond the KV capacity of 8"),
        ("position", 2**63 - 1, "beyond the KV capacity"),
        ("loops", -5, "loops -5 is outside 1-2"),
        ("logits_from", 2, "hidden states are not"),
        ("keys", np.zeros((6, 2, 4, 16), np.float16), "differ in their shape"),
        ("keys", np.zeros((6, 2, 0, 16), np.float16), "not float16 or float32 of shape"),
        ("tokens", np.zeros(9, np.int64), "beyond the KV capacity"),
        ("tokens", np.zeros(0, np.int64), "hidden states are not"),
    ):
        with pytest.raises(Exception, match=message):
            session.run(None, {**good, name: np.array(value)})
    for threads in ("0", "257", "two", "1 ", "99999999999"):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("mobileloop.threads", threads)
        with pytest.raises(Exception, match="is not a number from 1 to 256"):
            options.register_custom_ops_library(str(native.library_folder() / runtime.OPERATORS))


@needs_kernels
def test_new_rows_are_what_lies_in_the_caches(pair):
    """Float16 keys come out as the engine stored them, subnormal and infinite ones too."""
    path, _ = pair(schedules()["immediate"])
    session = OnnxSession(path, threads=1, kernel="engine")
    before = session._keys.copy()
    feeds = {"tokens": np.array(TOKENS), "position": np.array(3), "loops": np.array(2), "logits_from": np.array(0)}
    assert session._model is not None
    _, keys, values = session._model.run(runtime.OUTPUTS, {**feeds, "keys": session._keys, "values": session._values})
    assert np.array_equal(keys.view(np.uint16), session._keys[:, :, 3:13].view(np.uint16))
    assert np.array_equal(values.view(np.uint16), session._values[:, :, 3:13].view(np.uint16))
    assert np.array_equal(before[:, :, :3], session._keys[:, :, :3])
    assert np.array_equal(before[:, :, 13:], session._keys[:, :, 13:])


@needs_kernels
def test_many_small_and_large_halves(pair):
    """Norms as large and as small as float16 gets: saturated and subnormal keys survive the way out."""
    for scale in (1e-7, 1e6):
        path, _ = pair(quantization="none", kv_bits=16)
        held = next(t for t in onnx.load(path).graph.initializer if t.name == "blocks.0.input_layernorm")
        changed(path, replace(held.name, numpy_helper.to_array(held) * np.float32(scale)))
        session = OnnxSession(path, threads=1, kernel="engine")
        session.prefill(TOKENS)
        rows = session._keys[0, :, : len(TOKENS)].astype(np.float32)
        smallest, largest = np.abs(rows[rows != 0]).min(), np.abs(rows).max()
        assert smallest < 6e-5 if scale < 1 else largest == 65504


def test_tensor_types_are_the_documented_ones(tmp_path):
    checkpoint, packed = packed_model(TINY, None, "int4")
    model = onnx.load(write(tmp_path / "model.onnx", checkpoint, packed))
    types = {each.name: each.data_type for each in model.graph.initializer}
    assert types[CODES] == TensorProto.UINT8
    assert types[SCALE] == TensorProto.FLOAT16
    head = call(model, "head")
    assert list(head.input)[1:] == ["final_norm", "embedding.codes", "embedding.scale"]
    assert Path(tmp_path / "model.onnx").is_file()
