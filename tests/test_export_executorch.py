"""The ExecuTorch exporter and its session: the program's graph, its bits against the engine's, and hostile files."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from builders import (
    DATA,
    TINY,
    full_attention_schedule,
    golden,
    kl_divergence,
    mixed_schedule,
    packed_model,
    same_bits,
    schedules,
    write_engine,
)

from mobileloop.artifact import ArtifactInfo
from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError
from mobileloop.packed import PackedModel
from mobileloop.reference.model import ReferenceModel
from mobileloop.runtimes import open_session
from mobileloop.spec.schedule import Schedule
from mobileloop_export import executorch as executorch_export
from mobileloop_export.formats import exporter

QUANTIZATIONS = ("none", "int4", "int4-symmetric", "int8")
TOKENS = [3, 66, 0, 17, 17, 42, 5, 61, 8, 30, 12]


def describe(checkpoint, packed, context=64):
    return ArtifactInfo.describe(checkpoint, packed, context, 32 if packed.quantization == "none" else 16)


def export(path, checkpoint, packed, context=64):
    executorch_export.write(packed, describe(checkpoint, packed, context), path, lambda step, share: None)
    return path


def reference(packed, tokens=TOKENS, loops=None):
    model = ReferenceModel(packed.config, packed.schedule, packed.dequantized())
    return model.forward(torch.tensor([tokens]), loops=loops)[0].numpy()


def run(path, tokens=TOKENS, half=None, **options):
    """Logits of every token: the first half at once, the rest one by one."""
    session = open_session(path, **{"threads": 1, **options})
    half = len(tokens) // 2 if half is None else half
    pieces = [session.logits(tokens[:half])] if half else []
    pieces += [session.decode(token)[None] for token in tokens[half:]]
    session.close()
    return np.concatenate(pieces)


@pytest.fixture(scope="module")
def looped(tmp_path_factory):
    """One program with loops up to 3, and what it was made of."""
    checkpoint, packed = packed_model(schedule=Schedule.immediate(3, 3), quantization="int4")
    return export(tmp_path_factory.mktemp("looped") / "a.pte", checkpoint, packed), checkpoint, packed


# -- the same answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("name", list(schedules()))
def test_equals_the_engine_bit_for_bit(name, quantization, tmp_path):
    schedule = schedules()[name]
    checkpoint, packed = packed_model(TINY, schedule, quantization)
    path = export(tmp_path / "a.pte", checkpoint, packed)
    info = describe(checkpoint, packed)
    engine = write_engine(tmp_path / "a.safetensors", checkpoint, packed, info.context, info.kv_bits)
    for loops in (None, *range(1, schedule.max_loops + 1)):
        found = run(path, loops=loops)
        assert same_bits(found, run(engine, loops=loops))
        expected = reference(packed, loops=loops)
        assert kl_divergence(expected, found) < (1e-6 if quantization == "none" else 1e-4)
        assert np.abs(found - expected).max() < (1e-4 if quantization == "none" else 5e-2)


def test_an_eight_bit_cache_equals_the_engine_bit_for_bit(tmp_path):
    checkpoint, packed = packed_model(schedule=Schedule.immediate(3, 2), quantization="int4")
    info = ArtifactInfo.describe(checkpoint, packed, 32, 8)
    path = tmp_path / "a.pte"
    exporter("executorch")(packed, info, path, lambda step, share: None)
    engine = write_engine(tmp_path / "a.safetensors", checkpoint, packed, 32, 8)
    assert same_bits(run(path), run(engine))
    assert kl_divergence(reference(packed), run(path)) < 1e-2


def test_wider_groups_equal_the_engine_bit_for_bit(tmp_path):
    checkpoint = random_model(TINY, Schedule.immediate(3, 2))
    packed = PackedModel.from_checkpoint(checkpoint, "int4", group=64)
    engine = write_engine(tmp_path / "a.safetensors", checkpoint, packed, 64, 16)
    assert same_bits(run(export(tmp_path / "a.pte", checkpoint, packed)), run(engine))


def test_full_attention_is_refused_by_name(tmp_path):
    checkpoint, packed = packed_model(schedule=full_attention_schedule())
    for target in ("executorch", "onnx"):
        with pytest.raises(MobileloopError, match=f"full attention, which {target} does not run"):
            exporter(target)(packed, describe(checkpoint, packed), tmp_path / "a", lambda step, share: None)


@pytest.mark.parametrize("name", ["mobilellm_base", "mobilellm_ls"])
def test_golden(name, tmp_path):
    checkpoint = load_checkpoint(str(DATA / name / "model"))
    path = export(tmp_path / "golden.pte", checkpoint, PackedModel.from_checkpoint(checkpoint, "none"))
    io = golden(name)
    cached = io["logits_cached_decode" if name == "mobilellm_base" else "logits_cached_decode_two_slots"]
    for row, tokens in enumerate(io["input_ids"].tolist()):
        assert np.abs(run(path, tokens, half=len(tokens)) - io["logits"][row]).max() < 1e-4
        assert np.abs(run(path, tokens, half=0) - cached[row]).max() < 1e-4


@pytest.mark.parametrize("change", [{"tie_embeddings": False}, {"rope_pairing": "interleaved"}], ids=["untied", "rope"])
def test_other_shapes(change, tmp_path):
    checkpoint, packed = packed_model(TINY.model_copy(update=change), Schedule.repeat_all_over(3, 2))
    assert np.abs(run(export(tmp_path / "a.pte", checkpoint, packed)) - reference(packed)).max() < 1e-4


def test_a_prompt_longer_than_one_call(tmp_path):
    checkpoint, packed = packed_model(schedule=Schedule.immediate(3, 2))
    path = export(tmp_path / "a.pte", checkpoint, packed, context=300)
    tokens = [(7 * i) % 67 for i in range(270)]
    expected = reference(packed, tokens)
    session = open_session(path, threads=2)
    for all_logits in (True, False):
        session.reset()
        found = session.logits(tokens[:265]) if all_logits else session.prefill(tokens[:265])[None]
        assert np.abs(found - expected[265 - len(found) : 265]).max() < 1e-4
        assert np.abs(session.decode(tokens[265]) - expected[265]).max() < 1e-4
        assert np.abs(session.prefill(tokens[266:]) - expected[269]).max() < 1e-4


def test_reset_changes_the_loop_count_and_forgets(looped):
    path, _, packed = looped
    session = open_session(path, threads=1)
    first = session.logits(TOKENS)
    for loops in (1, 3, 2):
        session.reset(loops)
        assert session.loops == loops
        assert kl_divergence(reference(packed, loops=loops), session.logits(TOKENS)) < 1e-4
    session.reset(3)
    assert same_bits(session.logits(TOKENS), first)


@pytest.mark.parametrize("target", ["engine", "executorch", "onnx"])
def test_every_stage_keeps_its_own_bound(target, tmp_path):
    """Stages that differ in their counts (2, 1, 1) and bounds (2, 4, 3), in every runtime."""
    schedule = mixed_schedule()
    checkpoint, packed = packed_model(schedule=schedule)
    suffix = {"engine": ".safetensors", "executorch": ".pte", "onnx": ".onnx"}[target]
    path = tmp_path / f"mixed{suffix}"
    exporter(target)(packed, describe(checkpoint, packed), path, lambda step, share: None)
    for loops in (None, 1, 2, 3, 4):
        assert np.abs(run(path, loops=loops) - reference(packed, loops=loops)).max() < 1e-4
    session = open_session(path, threads=1)
    session.reset()  # keeps each stage's own count
    assert np.abs(session.logits(TOKENS) - reference(packed)).max() < 1e-4
    with pytest.raises(MobileloopError, match="loops 5 is outside 1-4"):
        session.reset(5)


# -- the file --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "immediate", "mixed"])
@pytest.mark.parametrize("max_loops", [1, 7])
def test_no_node_is_unrolled(name, max_loops):
    schedule = schedules()[name]
    bound = [stage.model_copy(update={"max_loops": max(stage.max_loops, max_loops)}) for stage in schedule.stages]
    schedule = schedule.model_copy(update={"stages": tuple(bound)})
    checkpoint, packed = packed_model(schedule=schedule)
    program = executorch_export._Program(packed, describe(checkpoint, packed)).eval()
    exported = executorch_export._exported(program, describe(checkpoint, packed), lambda step, share: None)
    for method in ("forward", "step"):
        called = [str(node.target) for node in exported[method].graph.nodes if node.op == "call_function"]
        assert sum(target.startswith("mobileloop.loop") for target in called) == len(schedule.stages)
        assert sum(target.startswith(("mobileloop.embed", "mobileloop.head")) for target in called) == 2
        assert not any(target.startswith("aten.") and "mm" in target for target in called)


def test_the_written_program_names_each_loop_once_per_stage(looped):
    from executorch.exir._serialize._program import deserialize_pte_binary

    path, _, packed = looped
    file = deserialize_pte_binary(path.read_bytes())
    plans = {plan.name: plan for plan in file.program.execution_plan}
    for method in ("forward", "step"):
        plan = plans[method]
        names = [operator.name for operator in plan.operators]
        calls = [
            names[instruction.instr_args.op_index]
            for chain in plan.chains
            for instruction in chain.instructions
            if hasattr(instruction.instr_args, "op_index")
        ]
        assert calls.count("mobileloop::loop") == len(packed.schedule.stages)


def test_size_does_not_depend_on_max_loops(tmp_path):
    sizes = []
    for loops in (1, 4):
        checkpoint, packed = packed_model(schedule=Schedule.repeat_all_over(3, loops), quantization="int4")
        sizes.append(export(tmp_path / f"{loops}.pte", checkpoint, packed).stat().st_size)
    assert abs(sizes[0] - sizes[1]) < 4096


def test_metadata_comes_back(looped):
    path, checkpoint, packed = looped
    assert open_session(path, threads=1).info == describe(checkpoint, packed)


def test_blocks_are_stored_once_and_whole(looped):
    path, _, packed = looped
    data = path.read_bytes()
    for record in (packed.matrix_record("embedding"), *(packed.block_record(block) for block in range(3))):
        assert data.count(record.tobytes()) == 1


def test_cpus(looped):
    """Two sessions share the operators' threads, and each runs on its own cpus."""
    cpu = min(os.sched_getaffinity(0))
    expected = run(looped[0], threads=2)
    assert np.array_equal(run(looped[0], threads=2, cpus=[cpu]), expected)
    bound, free = open_session(looped[0], threads=2, cpus=[cpu]), open_session(looped[0], threads=2)
    assert bound.details()["cpus"] == str(cpu)
    assert "cpus" not in free.details()

    def confined():
        return {cpu} in [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")]

    bound.prefill(TOKENS)
    assert confined()
    free.prefill(TOKENS)
    assert confined() == (len(os.sched_getaffinity(0)) == 1)
    with pytest.raises(MobileloopError, match="cpu 1023 does not exist"):
        open_session(looped[0], cpus=[1023])


def test_session_says_what_it_is(looped):
    session = open_session(looped[0], threads=1)
    assert session.runtime == "executorch"
    assert session.details()["executorch"].startswith("1.")
    with pytest.raises(MobileloopError, match="65 tokens do not fit the context of 64"):
        session.prefill([1] * 65)
    with pytest.raises(MobileloopError, match="outside the vocabulary of 67"):
        session.prefill([67])
    with pytest.raises(MobileloopError, match="threads -1 is outside 0-256"):
        open_session(looped[0], threads=-1)


# -- untrusted files -------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 8, 39, 64, 200, 0.1, 0.5, 0.9, -1])
def test_truncated(looped, kept, tmp_path):
    data = looped[0].read_bytes()
    path = tmp_path / "cut.pte"
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(MobileloopError, match=r"cut\.pte"):
        open_session(path, threads=1)


def test_files_that_are_no_program(tmp_path):
    path = tmp_path / "x.pte"
    for data in (b"x" * 4096, b"\0\0\0\0ET12" + b"\0" * 4096, np.random.default_rng(0).bytes(4096)):
        path.write_bytes(data)
        with pytest.raises(MobileloopError, match=r"x\.pte"):
            open_session(path, threads=1)


def test_a_program_of_someone_else(tmp_path):
    exir = executorch_export.exir

    class Identity(torch.nn.Module):
        def forward(self, x):
            return x + 1

    program = exir.to_edge(torch.export.export(Identity(), (torch.ones(2),))).to_executorch()
    path = tmp_path / "other.pte"
    path.write_bytes(program.buffer)
    with pytest.raises(MobileloopError, match="was not exported by mobileloop"):
        open_session(path, threads=1)


HOSTILE = """
import json, sys
from mobileloop.errors import MobileloopError
from mobileloop.runtimes import open_session

said = []
for path in sys.argv[1:]:
    try:
        session = open_session(path, threads=1)
        session.prefill([1, 2, 3])
        session.decode(4)
        said.append("ran")
    except MobileloopError as error:
        said.append(str(error))
print(json.dumps(said))
"""


def test_hostile_constants_and_metadata_do_not_crash(looped, tmp_path):
    """In a process of its own: every record's header is broken in turn, then the metadata, then the whole is noise."""
    path, _, packed = looped
    data = path.read_bytes()
    records = [packed.matrix_record("embedding"), *(packed.block_record(block) for block in range(3))]
    broken = []
    for record in records:
        at = data.index(record.tobytes())
        for offset, patch in ((0, b"\xff" * 8), (0, b"\0" * 256), (8, b"\xff\xff\xff\x7f" * 8)):
            broken.append(data[: at + offset] + patch + data[at + offset + len(patch) :])
    for old, new in (
        (b'"context":64', b'"context":99'),
        (b'"max_loops":3', b'"max_loops":9'),
        (b'"hidden_size":64', b'"hidden_size":32'),
        (b'"vocab_size":67', b'"vocab_size":99'),
        (b'"kv_bits":16', b'"kv_bits":32'),
        (b'{"format_version"', b'["format_version"'),
        (b'{"format_version"', b'\xff"format_version"'),
    ):
        assert data.count(old)
        broken.append(data.replace(old, new))
    paths = []
    for number, content in enumerate(broken):
        paths.append(tmp_path / f"{number}.pte")
        paths[-1].write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, *map(str, paths)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(said) == len(paths)
    assert all(text.startswith("the program failed: ") for text in said[: 3 * len(records)]), said
    assert all("damaged" in text for text in said[-2:]), said


def hostile_calls(path):
    """The program with one argument of one operator replaced, or cut off, at a time: (what was done, bytes).

    Nothing is written to constants: ExecuTorch maps them read-only and does not tell a kernel which ones they are.
    """
    from executorch.exir._serialize._program import deserialize_pte_binary, serialize_pte_binary
    from executorch.exir.schema import Int, KernelCall, Null, Tensor

    file = deserialize_pte_binary(path.read_bytes())
    plan = next(plan for plan in file.program.execution_plan if plan.name == "step")
    kinds = {}  # one value of every kind, and of tensors one of every type
    for index, value in enumerate(plan.values):
        tensor = isinstance(value.val, Tensor)
        kinds.setdefault(f"{value.val.scalar_type.name} tensor" if tensor else type(value.val).__name__, index)
    for other in (Null(), Int(-1), Int(1 << 40)):
        plan.values.append(type(plan.values[0])(other))
        kinds[str(other)] = len(plan.values) - 1
    calls = [
        (plan.operators[instruction.instr_args.op_index].name, instruction.instr_args)
        for chain in plan.chains
        for instruction in chain.instructions
        if isinstance(instruction.instr_args, KernelCall)
    ]
    needed = {"mobileloop::embed": 4, "mobileloop::loop": 11, "mobileloop::head": 7}
    written = {"mobileloop::embed": (3,), "mobileloop::loop": (2, 3, 9, 10), "mobileloop::head": (6,)}
    for name, call in calls:
        good = call.args
        for place in range(needed.get(name, 0)):
            for kind, index in kinds.items():
                value = plan.values[index].val
                if place in written[name] and isinstance(value, Tensor) and value.allocation_info is None:
                    continue
                call.args = [*good[:place], index, *good[place + 1 :]]
                yield f"{name} {place} {kind}", bytes(serialize_pte_binary(file))
            call.args = good[:place]
            yield f"{name} cut to {place}", bytes(serialize_pte_binary(file))
        call.args = good


def test_hostile_calls_do_not_crash(tmp_path):
    """In a process of its own: operators are called with every kind of value at every place, and with too few."""
    checkpoint, packed = packed_model(schedule=Schedule.immediate(3, 3), quantization="int4")
    paths, done_to = [], []
    for what, content in hostile_calls(export(tmp_path / "a.pte", checkpoint, packed)):
        paths.append(tmp_path / f"{len(paths)}.pte")
        paths[-1].write_bytes(content)
        done_to.append(what)
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, *map(str, paths)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = dict(zip(done_to, json.loads(done.stdout), strict=True))
    assert len(said) > 200
    assert all(text == "ran" or text.startswith("the program failed: ") for text in said.values()), said
    for what, text in said.items():
        if "cut to" in what:
            assert "too few arguments" in text, (what, text)
        if "int_val" in what:  # a size where one belongs, and no number at all elsewhere
            assert text != "ran", (what, text)
