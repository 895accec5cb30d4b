import ctypes
import itertools
import json
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import DATA, TINY, full_attention_schedule, golden, kl_divergence, mixed_schedule, schedules, write_engine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from mobileloop.artifact import FORMAT_VERSION, ArtifactInfo
from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError
from mobileloop.packed import PackedModel
from mobileloop.quant.records import PAGE
from mobileloop.reference.cache import KvCache
from mobileloop.reference.model import ReferenceModel
from mobileloop.runtimes import native, open_session
from mobileloop.runtimes.engine import EngineSession, read_info
from mobileloop.spec.schedule import Schedule
from mobileloop.tokenizer import Tokenizer
from mobileloop_bench.bandwidth.memory import read_bandwidth

TOKENS = [3, 66, 0, 17, 17, 42, 5, 61, 8, 30, 12]


@pytest.fixture
def kernels():
    """use(name); the best set is put back afterwards."""
    yield native.use_kernels
    native.use_kernels(native.available_kernels()[0])


def reference(packed, tokens=TOKENS, loops=None):
    model = ReferenceModel(packed.config, packed.schedule, packed.dequantized())
    return model.forward(torch.tensor([tokens]), loops=loops)[0].numpy()


def run(path, tokens=TOKENS, pieces=None, **options):
    """Logits of every token, run in pieces of the given sizes."""
    session = open_session(path, **{"threads": 1, **options})
    try:
        parts, at = [], 0
        for size in pieces or [len(tokens)]:
            parts.append(session.logits(tokens[at : at + size]))
            at += size
        assert at == session.position == len(tokens)
        return np.concatenate(parts)
    finally:
        session.close()


def same_bits(a, b):
    return np.array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32))


# -- the same answers as the reference -------------------------------------------------------------


@pytest.mark.parametrize("name", list(schedules()))
@pytest.mark.parametrize("quantization", ["none", "int4", "int4-symmetric", "int8"])
def test_equals_the_reference(engine_artifact, name, quantization):
    schedule = schedules()[name]
    path, packed = engine_artifact(schedule, quantization)
    for loops in (None, *range(1, schedule.max_loops + 1)):
        expected, found = reference(packed, loops=loops), run(path, loops=loops)
        if quantization == "none":
            assert np.abs(found - expected).max() < 1e-4
            assert kl_divergence(expected, found) < 1e-6
        else:  # the reference has the same weights, but does not round activations to 15 bits
            assert kl_divergence(expected, found) < 1e-6
            assert np.abs(found - expected).max() < 2e-3


def test_half_precision_cache_is_close(engine_artifact):
    schedule = Schedule.immediate(3, 2)
    wide, packed = engine_artifact(schedule, kv_bits=32)
    half, _ = engine_artifact(schedule, kv_bits=16)
    assert not same_bits(run(wide), run(half))
    assert np.abs(run(half) - reference(packed)).max() < 2e-2
    assert kl_divergence(reference(packed), run(half)) < 1e-5


@pytest.mark.parametrize("quantization", ["int4", "int4-symmetric", "int8"])
@pytest.mark.parametrize("group", [64, 128])
def test_wider_groups(tmp_path, kernels, quantization, group):
    """Against the reference of the same weights; 96 inputs are in groups of 32 whatever is asked for."""
    config = TINY.model_copy(update={"hidden_size": 128, "tie_embeddings": False})
    checkpoint = random_model(config, mixed_schedule())
    packed = PackedModel.from_checkpoint(checkpoint, quantization, group=group)
    path = write_engine(tmp_path / "a.safetensors", checkpoint, packed)
    assert read_info(path).group == group
    found = run(path)
    assert kl_divergence(reference(packed), found) < 1e-6
    assert np.abs(found - reference(packed)).max() < 2e-3
    for name, threads in itertools.product(native.available_kernels(), (1, 3)):
        kernels(name)
        assert same_bits(run(path, threads=threads, pieces=[1, 6, 4]), found)


def test_a_file_of_format_version_1_is_read(engine_artifact, tmp_path):
    path, _ = engine_artifact(quantization="int4")
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    old = data[8:end].replace(b'\\"format_version\\":3', b'\\"format_version\\":1').replace(b',\\"group\\":32', b"")
    assert len(old) == end - 8 - len(b',\\"group\\":32')
    first = tmp_path / "first.safetensors"
    first.write_bytes(data[:8] + old.ljust(end - 8) + data[end:])
    assert read_info(first).format_version == 1
    assert same_bits(run(first), run(path))


def test_eight_bit_cache_is_close(engine_artifact):
    schedule = Schedule.immediate(3, 2)
    path, packed = engine_artifact(schedule, kv_bits=8)
    half, _ = engine_artifact(schedule, kv_bits=16)
    assert not same_bits(run(path), run(half))
    assert 1e-9 < kl_divergence(reference(packed), run(path)) < 1e-2
    for pieces in ([1] * 11, [5, 6]):
        assert same_bits(run(path, pieces=pieces, threads=2), run(path))


@pytest.mark.parametrize("kv_bits", [8, 32])
def test_full_attention(engine_artifact, kernels, kv_bits):
    """All tokens of a call see each other, however many they are; what came before stays as it was."""
    path, packed = engine_artifact(full_attention_schedule(), context=300, kv_bits=kv_bits)
    limit = 1e-4 if kv_bits == 32 else 0.5
    tokens = [(7 * i) % 67 for i in range(200)]  # more than one pass over the weights when it is causal
    found = run(path, tokens)
    assert np.abs(found - reference(packed, tokens)).max() < limit
    for name, threads in itertools.product(native.available_kernels(), (1, 3)):
        kernels(name)
        assert same_bits(run(path, tokens, threads=threads), found)
    pieces = run(path, tokens[:9], pieces=[4, 5])
    model, cache = ReferenceModel(packed.config, packed.schedule, packed.dequantized()), KvCache()
    for at, size in ((0, 4), (4, 5)):
        expected = model.forward(torch.tensor([tokens[at : at + size]]), cache)[0].numpy()
        assert np.abs(pieces[at : at + size] - expected).max() < limit


@pytest.mark.parametrize(
    "change",
    [
        {"tie_embeddings": False},
        {"rope_pairing": "interleaved", "rope_theta": 500.0},
        {"num_heads": 3, "num_kv_heads": 3, "head_dim": 20, "hidden_size": 44, "intermediate_size": 50},
        {"num_heads": 5, "num_kv_heads": 1, "head_dim": 6, "hidden_size": 33, "intermediate_size": 7, "vocab_size": 70},
    ],
    ids=["untied", "interleaved", "head_dim 20", "odd sizes"],
)
def test_other_shapes(engine_artifact, change):
    path, packed = engine_artifact(Schedule.repeat_all_over(3, 2), config=TINY.model_copy(update=change))
    for threads in (1, 3):
        assert np.abs(run(path, threads=threads) - reference(packed)).max() < 1e-4


@pytest.mark.parametrize("name", ["mobilellm_base", "mobilellm_ls"])
def test_golden(tmp_path, name):
    checkpoint = load_checkpoint(str(DATA / name / "model"))
    packed = PackedModel.from_checkpoint(checkpoint, "none")
    path = write_engine(tmp_path / "golden.safetensors", checkpoint, packed)
    io = golden(name)
    cached = io["logits_cached_decode" if name == "mobilellm_base" else "logits_cached_decode_two_slots"]
    for row, tokens in enumerate(io["input_ids"].tolist()):
        assert np.abs(run(path, tokens, threads=2) - io["logits"][row]).max() < 1e-4
        assert np.abs(run(path, tokens, pieces=[1] * len(tokens)) - cached[row]).max() < 1e-4


# -- the same bits however it is run ---------------------------------------------------------------


@pytest.mark.parametrize("quantization", ["none", "int4", "int4-symmetric", "int8"])
def test_prefill_is_chunks_is_single_tokens(engine_artifact, quantization):
    path, _ = engine_artifact(mixed_schedule(), quantization, kv_bits=16)
    whole = run(path)
    for pieces in ([1] * 11, [5, 6], [1, 9, 1], [2, 2, 2, 2, 3]):
        assert same_bits(run(path, pieces=pieces, threads=2), whole)


def test_a_prompt_longer_than_a_chunk(engine_artifact):
    path, packed = engine_artifact(Schedule.immediate(3, 2), context=300)
    tokens = [(7 * i) % 67 for i in range(270)]  # the engine passes over the weights once per 128 tokens
    found = run(path, tokens, threads=2)
    assert np.abs(found - reference(packed, tokens)).max() < 1e-4
    session = EngineSession(path, threads=1)
    assert same_bits(session.prefill(tokens[:200]), found[199])
    assert same_bits(session.decode(tokens[200]), found[200])


@pytest.mark.parametrize("quantization", ["none", "int4", "int4-symmetric", "int8"])
def test_kernels_and_threads_give_the_same_bits(engine_artifact, kernels, quantization):
    path, _ = engine_artifact(mixed_schedule(), quantization, kv_bits=16)
    found = {}
    for name, threads in itertools.product(native.available_kernels(), (1, 2, 3)):
        kernels(name)
        session = EngineSession(path, threads=threads)
        assert session.details() == {"kernels": name, "stream": "off"}
        found[name, threads] = np.concatenate([session.logits(TOKENS[:7]), *([session.decode(t)] for t in TOKENS[7:])])
        session.close()
    truth = found["scalar", 1]
    assert all(same_bits(logits, truth) for logits in found.values())


def test_an_unknown_kernel_set():
    with pytest.raises(MobileloopError, match="kernel set 'mmx'"):
        native.use_kernels("mmx")


def test_runs_repeat_and_reset_forgets(engine_artifact):
    path, _ = engine_artifact(Schedule.immediate(3, 3), "int4")
    session = EngineSession(path, threads=2)
    first = session.logits(TOKENS)
    session.reset()
    assert session.position == 0
    session.logits(TOKENS[5:])
    session.reset()
    assert same_bits(session.logits(TOKENS), first)


def test_reset_changes_the_loop_count(engine_artifact):
    path, packed = engine_artifact(Schedule.repeat_all_over(3, 4))
    session = EngineSession(path, threads=1)
    assert session.loops == 4
    for loops in (1, 3, 2, 4):
        session.reset(loops)
        assert session.loops == loops
        assert np.abs(session.logits(TOKENS) - reference(packed, loops=loops)).max() < 1e-4
        session.reset()
        assert session.loops == loops
        assert np.abs(session.logits(TOKENS) - reference(packed, loops=loops)).max() < 1e-4


def test_reset_without_a_count_keeps_the_counts_of_the_stages(engine_artifact):
    path, packed = engine_artifact(mixed_schedule())  # its stages differ: 2, 1 and 1
    session = EngineSession(path, threads=1)
    before = session.logits(TOKENS)
    session.reset()
    assert same_bits(session.logits(TOKENS), before)
    assert np.abs(before - reference(packed)).max() < 1e-4


def test_bounds(engine_artifact):
    path, _ = engine_artifact(Schedule.immediate(3, 2), context=12)
    for loops in (0, 3, -1):
        with pytest.raises(MobileloopError, match="outside 1-2"):
            EngineSession(path, loops=loops)
    with pytest.raises(MobileloopError, match="threads -1 is outside 0-256"):
        EngineSession(path, threads=-1)
    with pytest.raises(MobileloopError, match="outside 0-256"):
        EngineSession(path, threads=257)
    session = EngineSession(path, threads=1)
    with pytest.raises(MobileloopError, match="outside 1-2"):
        session.reset(3)
    with pytest.raises(MobileloopError, match="no tokens"):
        session.prefill([])
    with pytest.raises(MobileloopError, match="13 tokens do not fit the context of 12"):
        session.prefill([1] * 13)
    for token in (-1, 67, 1 << 40):
        with pytest.raises(MobileloopError, match=f"token {token} is outside the vocabulary of 67"):
            session.prefill([1, token])
    assert session.position == 0
    session.prefill(TOKENS)
    session.decode(1)
    with pytest.raises(MobileloopError, match="13 tokens do not fit"):
        session.decode(1)
    session.close()
    session.close()
    with pytest.raises(MobileloopError, match="was closed"):
        session._evaluate([1], False)


# -- several sequences -----------------------------------------------------------------------------


@pytest.mark.parametrize("quantization", ["none", "int4"])
def test_a_batch_equals_each_sequence_alone(engine_artifact, quantization):
    path, packed = engine_artifact(mixed_schedule(), quantization, kv_bits=16)
    batch, alone = EngineSession(path, threads=2, sequences=3), EngineSession(path, threads=1)
    rows = {2: TOKENS[:4], 0: TOKENS[3:7], 1: TOKENS[7:]}
    more = {1: [5, 9], 2: [6, 1]}
    found = {}
    for tokens in (rows, more):
        together = batch.run(list(tokens), list(tokens.values()), all_logits=True)
        found.update({(sequence, tokens is more): row for sequence, row in zip(tokens, together, strict=True)})
    assert batch.positions == [4, 6, 6]
    for sequence, tokens in rows.items():
        alone.reset()
        assert same_bits(alone.logits(tokens), found[sequence, False])
        if sequence in more:
            assert same_bits(alone.logits(more[sequence]), found[sequence, True])
        assert np.abs(found[sequence, False] - reference(packed, tokens)).max() < 2e-2
    batch.reset()
    assert batch.positions == [0, 0, 0]


@pytest.mark.parametrize("kv_bits", [8, 32])
def test_full_attention_in_a_batch(engine_artifact, kv_bits):
    """Tokens see the others of their own sequence and call, however many, and nothing of another sequence."""
    path, packed = engine_artifact(full_attention_schedule(), context=200, kv_bits=kv_bits)
    batch, alone = EngineSession(path, threads=3, sequences=3), EngineSession(path, threads=1)
    rows = [[(n * i + n) % 67 for i in range(90)] for n in (3, 5, 7)]  # together more than one causal pass
    together = batch.run([2, 0, 1], rows, all_logits=True)
    later = batch.run([1, 2], [TOKENS[:4], TOKENS[4:8]])
    for place, row in enumerate(rows):
        alone.reset()
        assert same_bits(alone.logits(row), together[place])
        assert np.abs(together[place] - reference(packed, row)).max() < (1e-4 if kv_bits == 32 else 0.5)
        if place != 1:
            assert same_bits(alone.logits({2: TOKENS[:4], 0: TOKENS[4:8]}[place])[-1], later[{2: 0, 0: 1}[place]])


def test_a_prompt_is_shared_by_its_forks(engine_artifact):
    path, _ = engine_artifact(Schedule.immediate(3, 2), "int4", kv_bits=16)
    session = EngineSession(path, threads=1, sequences=3)
    session.prefill(TOKENS)
    for target in (1, 2):
        session.fork(0, target)
    assert session.position == len(TOKENS)
    found = session.run([0, 1, 2], [[1], [2], [3]])
    for token, row in zip((1, 2, 3), found, strict=True):
        assert same_bits(run(path, [*TOKENS, token])[-1], row)
    session.reset_sequence(0)
    assert session.positions == [0, 12, 12]
    assert session.position == 0
    assert same_bits(session.logits(TOKENS), run(path))


def test_batches_that_are_refused(engine_artifact):
    path, _ = engine_artifact(context=12)
    for count in (0, -1, 1025):
        with pytest.raises(MobileloopError, match="outside 1-1024"):
            EngineSession(path, sequences=count)
    session = EngineSession(path, threads=1, sequences=2)
    for sequences, tokens, words in (
        ([0, 2], [[1], [1]], "sequence 2 is outside 0-1"),
        ([-1], [[1]], "sequence -1 is outside"),
        ([1, 1], [[1], [1]], "listed twice"),
        ([0, 1], [[1]], "same length"),
        ([0, 1], [[1], [1, 2]], "same length"),
        ([], [], "same length"),
        ([0, 1], [[1], [67]], "token 67 is outside the vocabulary"),
        ([0, 1], [[1] * 13] * 2, "13 tokens do not fit the context of 12"),
    ):
        with pytest.raises(MobileloopError, match=words):
            session.run(sequences, tokens)
    for call in (lambda: session.fork(0, 2), lambda: session.fork(-1, 0), lambda: session.reset_sequence(2)):
        with pytest.raises(MobileloopError, match="outside 0-1"):
            call()
    assert session.positions == [0, 0]
    session.close()
    with pytest.raises(MobileloopError, match="was closed"):
        session.fork(0, 1)


def test_two_sessions_in_two_threads(engine_artifact):
    path, _ = engine_artifact(Schedule.immediate(3, 2), "int8")
    expected, found = run(path), {}

    def work(key):
        found[key] = [run(path, pieces=[4, 1, 6], threads=2) for _ in range(10)]

    threads = [threading.Thread(target=work, args=(key,)) for key in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same_bits(logits, expected) for key in range(2) for logits in found[key])


def test_a_session_outlives_its_file(engine_artifact):
    path, _ = engine_artifact()
    expected = run(path)
    session = EngineSession(path, threads=1)
    path.unlink()
    assert same_bits(session.logits(TOKENS), expected)


# -- the file, as docs/format.md says --------------------------------------------------------------


def test_the_file_is_safetensors_on_pages(engine_artifact):
    untied = TINY.model_copy(update={"tie_embeddings": False})
    path, packed = engine_artifact(quantization="int4", config=untied)
    data = path.read_bytes()
    (header_size,) = struct.unpack_from("<Q", data)
    assert (8 + header_size) % PAGE == 0
    header = json.loads(data[8 : 8 + header_size])
    names = [name for name in header if name != "__metadata__"]
    assert names == ["embedding", "blocks.0", "blocks.1", "blocks.2", "head", "final_norm"]
    at = 0
    for name in names:
        begin, end = header[name]["data_offsets"]
        assert begin == at
        assert begin % PAGE == 0
        at = end
    assert 8 + header_size + at == len(data)
    info = json.loads(header["__metadata__"]["mobileloop"])
    assert info["format_version"] == FORMAT_VERSION
    assert info["source_sha256"] == "random"
    with safe_open(str(path), framework="np") as stored:
        assert np.array_equal(stored.get_tensor("blocks.1"), packed.block_record(1))
        assert np.array_equal(stored.get_tensor("final_norm"), packed.vector("final_norm"))
    assert read_info(path).config == packed.config


def test_files_that_are_no_artifact(tmp_path):
    path = tmp_path / "x.safetensors"
    for data in (b"", b"x", b"\0" * 8, b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}"):
        path.write_bytes(data)
        with pytest.raises(MobileloopError, match=r"x\.safetensors"):
            open_session(path)
    save_file({"model.norm.weight": np.ones(4, np.float32)}, path)
    with pytest.raises(MobileloopError, match="a checkpoint and not an artifact"):
        open_session(path)
    for metadata in ("", "nonsense", "[]", "[" * 100_000, '{"format_version": 99}'):
        save_file({"final_norm": np.ones(4, np.float32)}, path, metadata={"mobileloop": metadata})
        with pytest.raises(MobileloopError, match=r"x\.safetensors"):
            open_session(path)
    with pytest.raises(MobileloopError, match="does not exist"):
        open_session(tmp_path / "missing.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(MobileloopError, match="is a folder"):
        open_session(tmp_path / "folder.safetensors")


def rewritten(data, change_header):
    """The artifact's bytes with another header; `change_header(header, info)` edits both in place."""
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    info = json.loads(header["__metadata__"]["mobileloop"])
    change_header(header, info)
    header["__metadata__"]["mobileloop"] = json.dumps(info)
    text = json.dumps(header).encode()
    text = text.ljust(-(-(8 + len(text)) // PAGE) * PAGE - 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


HOSTILE_HEADERS = {
    "newer": lambda h, i: i.update(format_version=FORMAT_VERSION + 1),
    "no block": lambda h, i: h.pop("blocks.1"),
    "no embedding": lambda h, i: h.pop("embedding"),
    "no final norm": lambda h, i: h.pop("final_norm"),
    "untied, no head": lambda h, i: i["config"].update(tie_embeddings=False),
    "tied, a head": lambda h, i: h.update(head=h["embedding"]),
    "tied by a number": lambda h, i: i["config"].update(tie_embeddings=1),
    "other hidden size": lambda h, i: i["config"].update(hidden_size=32),
    "other vocabulary": lambda h, i: i["config"].update(vocab_size=68),
    "other heads": lambda h, i: i["config"].update(num_heads=8, head_dim=8),
    "more blocks": lambda h, i: (i["config"].update(num_blocks=4), i["costs"]["block_bytes"].append(1)),
    "swapped records": lambda h, i: h.update({"blocks.0": h["embedding"], "embedding": h["blocks.0"]}),
    "float record": lambda h, i: h["blocks.0"].update(dtype="F32", shape=[h["blocks.0"]["shape"][0] // 4]),
    "offset outside": lambda h, i: h["final_norm"].update(data_offsets=[1 << 40, (1 << 40) + 256]),
    "negative offset": lambda h, i: h["final_norm"].update(data_offsets=[-256, 0]),
    "backward offsets": lambda h, i: h["final_norm"]["data_offsets"].reverse(),
    "text offsets": lambda h, i: h["final_norm"].update(data_offsets="0-256"),
    "huge context": lambda h, i: i.update(context=1 << 30),
    "huge loops": lambda h, i: i["schedule"]["stages"][0].update(max_loops=1 << 20),
    "infinite damping": lambda h, i: i["schedule"]["stages"][0].update(damping=float("inf")),
    "missing block named": lambda h, i: i["schedule"]["stages"][0].update(blocks=[0, 9]),
}


@pytest.mark.parametrize("name", sorted(HOSTILE_HEADERS))
def test_hostile_headers(engine_artifact, name):
    path, _ = engine_artifact(Schedule.immediate(3, 2), "int4")
    path.write_bytes(rewritten(path.read_bytes(), HOSTILE_HEADERS[name]))
    with pytest.raises(MobileloopError):
        run(path)


# The engine takes the number of query heads from the records, so that one is Python's to find.
@pytest.mark.parametrize("name", sorted(set(HOSTILE_HEADERS) - {"other heads"}))
def test_the_engine_alone_refuses_hostile_headers(engine_artifact, name):
    """The engine is also called without Python in front of it, so it has to check for itself."""
    path, _ = engine_artifact(Schedule.immediate(3, 2), "int4")
    path.write_bytes(rewritten(path.read_bytes(), HOSTILE_HEADERS[name]))
    model = ctypes.c_void_p()
    with pytest.raises(MobileloopError, match=path.name):
        native.check(native.library().ml_model_open(str(path).encode(), ctypes.byref(model)))
    assert not model


def try_open(path):
    """Open and run; True where it worked, False where it was refused in a sentence."""
    try:
        run(path, TOKENS[:3], threads=2)
    except MobileloopError:
        return False
    return True


def test_cut_short_at_many_points(engine_artifact):
    path, _ = engine_artifact(Schedule.immediate(3, 2), "int4")
    data = path.read_bytes()
    for size in (*range(0, 17), 100, 1000, PAGE - 1, PAGE, PAGE + 1, *range(PAGE, len(data), 9973), len(data) - 1):
        path.write_bytes(data[:size])
        assert not try_open(path), size


RECORD_FIELDS = [4 * i for i in range(16)] + [64 + 32 * t + 4 * f for t in range(9) for f in range(8)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 2),
    st.lists(
        st.tuples(
            st.sampled_from(RECORD_FIELDS),
            st.one_of(st.sampled_from([0, 1, 7, 31, 1 << 24, 1 << 31, (1 << 32) - 1]), st.integers(0, (1 << 32) - 1)),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_record_headers_with_other_fields(engine_artifact, block, changes):
    path, _ = hostile_base(engine_artifact)
    data = bytearray(path.read_bytes())
    (size,) = struct.unpack_from("<Q", data)
    begin = 8 + size + json.loads(data[8 : 8 + size])[f"blocks.{block}"]["data_offsets"][0]
    for offset, value in changes:
        struct.pack_into("<I", data, begin + offset, value)
    hostile = path.with_name("hostile.safetensors")
    hostile.write_bytes(data)
    try_open(hostile)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=6))
def test_flipped_header_bytes(engine_artifact, flips):
    path, used = hostile_base(engine_artifact)
    data = bytearray(path.read_bytes())
    for at, value in flips:
        data[at % used] = value
    hostile = path.with_name("hostile.safetensors")
    hostile.write_bytes(data)
    try_open(hostile)


_bases = {}


def hostile_base(make):
    """(path, used bytes of the safetensors header) of one artifact per test."""
    if make not in _bases:
        _bases.clear()
        path, _ = make(Schedule.immediate(3, 2), "int4")
        data = path.read_bytes()
        (size,) = struct.unpack_from("<Q", data)
        _bases[make] = path, 8 + len(data[8 : 8 + size].rstrip())
    return _bases[make]


SCRIPT = """
import random, struct, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_runtimes_engine import try_open
path = Path(sys.argv[1])
data, generator, worked = path.read_bytes(), random.Random(3), 0
(size,) = struct.unpack_from("<Q", data)
begin = 8 + size
for round in range(200):
    changed = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        where = generator.choice([begin, begin, 0, generator.randrange(0, len(data) - 400)])
        changed[where + generator.randrange(400)] = generator.randrange(256)
    path.write_bytes(changed[: len(data) if round % 3 else generator.randrange(len(data))])
    worked += try_open(path)
print("survived", worked)
"""


def test_a_hostile_file_never_ends_the_process(engine_artifact):
    path, _ = engine_artifact(Schedule.immediate(3, 2), "int8")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("survived")


# -- the bounds that costs promise -----------------------------------------------------------------


def test_info_of_an_artifact_counts_its_bytes(engine_artifact):
    path, packed = engine_artifact(Schedule.immediate(3, 2), "int4")
    info = read_info(path)
    assert isinstance(info, ArtifactInfo)
    assert info.costs.weight_bytes == packed.weight_bytes()
    assert path.stat().st_size >= packed.weight_bytes()
    assert info.executed_bytes() - info.unique_bytes() == sum(info.costs.block_bytes)


def test_read_bandwidth_checks_its_arguments():
    with pytest.raises(MobileloopError, match="outside 1-256"):
        read_bandwidth(0, 1 << 20, 0.01)
    assert read_bandwidth(1, 1 << 16, 0.01) > 0


@pytest.mark.real
def test_the_real_checkpoint_decodes(real_source, tmp_path):
    checkpoint = load_checkpoint(str(real_source))
    packed = PackedModel.from_checkpoint(checkpoint, "int4")
    path = write_engine(tmp_path / "real.safetensors", checkpoint, packed, context=64, kv_bits=16)
    tokenizer = Tokenizer(checkpoint.tokenizer)
    session = EngineSession(path)
    logits = session.prefill(tokenizer.encode("The capital of France is"))
    assert tokenizer.decode([int(logits.argmax())]).strip() == "Paris"


def test_stage_times_have_the_loops_of_every_row(engine_artifact):
    path, _ = engine_artifact(Schedule.immediate(2, 3))
    session = open_session(path, threads=2, loops=2)
    with pytest.raises(MobileloopError, match="not timed"):
        session.stage_times()
    session.time_stages()
    start = time.perf_counter_ns()
    session.decode(5)
    whole_ms = (time.perf_counter_ns() - start) / 1e6
    times = session.stage_times()
    assert [(name, len(ms)) for name, ms in times] == [("0-1 (each block by itself)", 2), ("head", 1)]
    assert all(one > 0 for _, ms in times for one in ms)
    assert sum(sum(ms) for _, ms in times) < whole_ms  # a sum of parts of it
    session.decode(5, loops=3)
    assert len(session.stage_times()[0][1]) == 3
    session.close()


def test_a_slowed_session_says_so_and_computes_the_same(engine_artifact):
    path, _ = engine_artifact()
    slow, fast = (open_session(path, threads=1) for _ in range(2))
    slow.slow_down(0.1)
    assert same_bits(slow.decode(5), fast.decode(5))
    assert slow.details()["slowed_down"] == "0.1"
    assert "slowed_down" not in fast.details()
    with pytest.raises(MobileloopError, match="outside 0-10"):
        slow.slow_down(11)
