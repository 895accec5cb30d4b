"""Halting and loops per token: the reference against its own definition, and the engine against the reference."""

import json
import struct

import numpy as np
import pytest
import torch
from builders import TINY, packed_model, same_bits, write_engine

from mobileloop.artifact import ArtifactInfo
from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError
from mobileloop.packed import PackedModel
from mobileloop.reference.cache import KvCache
from mobileloop.reference.model import ReferenceModel
from mobileloop.runtimes.engine import EngineSession
from mobileloop.spec.halting import Halting
from mobileloop.spec.schedule import Schedule, Stage
from mobileloop_export.formats import exporter

TOKENS = [3, 66, 0, 17, 17, 42, 5, 61, 8, 30, 12]
GATED = TINY.model_copy(update={"exit_gate": True})
SCHEDULES = {
    "immediate": Schedule.immediate(3, 4),
    "all": Schedule.repeat_all_over(3, 4),
    "all-normed": Schedule.repeat_all_over(3, 4, loop_end_norm=True),
    "damped-between": Schedule(
        name="damped-between",
        stages=(
            Stage(blocks=(0,)),
            Stage(blocks=(1, 0), loops=3, max_loops=5, damping=0.5),
            Stage(blocks=(2,), loops=4, max_loops=4),
        ),
    ),
}


def rules_of(name):
    return ["latent_difference", "cosine", *(["exit_gate"] if name == "all-normed" else [])]


CASES = [(name, rule) for name in SCHEDULES for rule in rules_of(name)]


def reference_of(packed):
    return ReferenceModel(packed.config, packed.schedule, packed.dequantized())


def forward(model, tokens=TOKENS, cache=None, **options):
    """Logits [tokens, vocab] and applied loops [stages, tokens]."""
    applied = []
    logits = model.forward(torch.tensor([tokens]), cache, applied=applied, **options)
    return logits[0].numpy(), torch.stack(applied)[:, 0].numpy()


def measured(model, halting):
    """Loops that tokens ran in looped stages, and every value that the rule compared with its threshold."""
    seen = []
    plain = model._halted

    def watching(rule, before, after, survival):
        halted = plain(rule, before, after, survival)
        if rule.rule == "latent_difference":
            seen.append((after - before).double().norm(dim=-1) / after.double().norm(dim=-1))
        elif rule.rule == "cosine":
            seen.append(1 - torch.nn.functional.cosine_similarity(after.double(), before.double(), dim=-1))
        elif rule.rule == "exit_gate":
            seen.append((1 - survival).clone())
        return halted

    model._halted = watching
    try:
        _, loops = forward(model, halting=halting)
    finally:
        del model._halted
    return loops[[stage.looped for stage in model.schedule.stages]], np.sort(torch.cat(seen).ravel().numpy())


_thresholds = {}


def dividing_threshold(model, name, rule):
    """The threshold by which tokens halt at loops as different as can be, and no value comes so near that rounding
    decides."""
    if (name, rule) not in _thresholds:
        never = Halting(rule=rule, threshold=1 if rule == "exit_gate" else 0)
        _, values = measured(model, never)
        best = (0.0, 0.0)
        for value in values[:: max(1, len(values) // 40)]:
            threshold = float(value) * 1.001 if rule != "exit_gate" else min(1.0, float(value) * 1.001)
            loops, met = measured(model, Halting(rule=rule, threshold=threshold))
            if np.abs(met / threshold - 1).min() > 2e-4:
                best = max(best, (float(loops.std()), threshold))
        _thresholds[name, rule] = best[1]
    return _thresholds[name, rule]


@pytest.fixture
def made(tmp_path):
    """make(name, rule) -> (path of the engine artifact, reference, rule with a threshold that divides the tokens)."""

    def make(name, rule, quantization="none", context=64):
        checkpoint, packed = packed_model(GATED, SCHEDULES[name], quantization)
        model = reference_of(packed)
        threshold = dividing_threshold(reference_of(packed_model(GATED, SCHEDULES[name])[1]), name, rule)
        path = write_engine(tmp_path / "halting.safetensors", checkpoint, packed, context, kv_bits=32)
        return path, model, Halting(rule=rule, threshold=threshold)

    return make


# -- the reference ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_the_reference_decodes_as_it_prefills(made, name, rule):
    _, model, halting = made(name, rule)
    expected, loops = forward(model, halting=halting)
    looped = loops[[stage.looped for stage in model.schedule.stages]]
    assert looped.min() < looped.max()  # some halt and some do not: the rule divides
    for pieces in ([1] * len(TOKENS), [4, 1, 6]):
        cache, found, ran, at = KvCache(), [], [], 0
        for size in pieces:
            logits, applied = forward(model, TOKENS[at : at + size], cache, halting=halting)
            found.append(logits)
            ran.append(applied)
            at += size
        assert np.array_equal(np.concatenate(ran, axis=1), loops)
        assert np.abs(np.concatenate(found) - expected).max() < 1e-4


def test_a_threshold_that_nothing_meets_changes_nothing(made):
    _, model, _ = made("all", "cosine")
    for halting in (Halting(rule="cosine"), Halting(rule="latent_difference", min_loops=2), Halting()):
        logits, loops = forward(model, halting=halting)
        assert np.array_equal(logits, forward(model)[0])
        assert (loops == 4).all()


def test_a_rule_that_all_meet_is_a_loop_count(made):
    _, model, _ = made("all", "latent_difference")
    for least in (1, 2, 3):
        halting = Halting(rule="latent_difference", threshold=1e9, min_loops=least)
        logits, loops = forward(model, halting=halting)
        assert (loops == least).all()
        assert np.abs(logits - forward(model, loops=least)[0]).max() < 1e-5


def test_a_zero_state_has_no_direction(tmp_path):
    checkpoint, _ = packed_model(TINY, Schedule.repeat_all_over(3, 3))
    checkpoint.tensors["embedding"][5] = 0
    packed = PackedModel.from_checkpoint(checkpoint, "none")
    path = write_engine(tmp_path / "zero.safetensors", checkpoint, packed)
    # The first token stays zero, the second starts as zero, the third is as any other.
    for rule, expected in (("cosine", [3, 2, 1]), ("latent_difference", [3, 1, 1])):
        halting = Halting(rule=rule, threshold=1e9)
        logits, loops = forward(reference_of(packed), [5, 7], halting=halting)
        assert loops.tolist() == [[expected[0], 1]]
        logits, loops = forward(reference_of(packed), [7, 5, 7], halting=halting)
        assert loops.tolist() == [[1, *expected[1:]]]
        session = EngineSession(path, threads=1, halting=halting)
        assert np.abs(session.logits([7, 5, 7]) - logits).max() < 1e-4
        assert session.applied[:, 0].tolist() == loops.tolist()
        session.reset()
        assert np.isfinite(session.logits([5, 7])).all()
        assert session.applied[:, 0].tolist() == [[expected[0], 1]]


# -- the engine ------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("name", "rule"), CASES)
def test_the_engine_halts_as_the_reference(made, name, rule, threads):
    path, model, halting = made(name, rule)
    expected, loops = forward(model, halting=halting)
    session = EngineSession(path, threads=threads, halting=halting)
    assert np.abs(session.logits(TOKENS) - expected).max() < 1e-4
    assert np.array_equal(session.applied[:, 0], loops)
    counts = session.loop_counts.copy()
    looped = [stage.looped for stage in model.schedule.stages]
    assert np.array_equal(counts, np.bincount(loops[looped].ravel(), minlength=len(counts)))
    session.reset()
    assert not session.loop_counts.any()
    for pieces in ([1] * len(TOKENS), [4, 1, 6]):
        session.reset()
        at, found, ran = 0, [], []
        for size in pieces:
            found.append(session.logits(TOKENS[at : at + size]))
            ran.append(session.applied[:, 0])
            at += size
        assert np.array_equal(np.concatenate(ran, axis=1), loops)
        assert np.abs(np.concatenate(found) - expected).max() < 1e-4
        assert np.array_equal(session.loop_counts, counts)
    applications = (loops.sum(axis=1) * [len(stage.blocks) for stage in model.schedule.stages]).sum()
    assert session.mean_applications == pytest.approx(applications / len(TOKENS))


@pytest.mark.parametrize("rule", ["cosine", "exit_gate"])
def test_halting_in_a_batch_is_halting_alone(made, rule):
    path, _, halting = made("all-normed", rule, "int4")
    batch = EngineSession(path, threads=2, sequences=3, halting=halting)
    alone = EngineSession(path, threads=1, halting=halting)
    rows = [TOKENS[:5], TOKENS[3:8], TOKENS[6:]]
    together = batch.run([0, 1, 2], rows, all_logits=True)
    applied = batch.applied
    decoded = batch.run([2, 0], [[9], [4]])
    assert applied[-1].min() < applied[-1].max()
    for place, row in enumerate(rows):
        alone.reset()
        assert np.array_equal(alone.logits(row), together[place])
        assert np.array_equal(alone.applied[:, 0], applied[:, place])
        if place != 1:
            assert np.array_equal(alone.decode({2: 9, 0: 4}[place]), decoded[{2: 0, 0: 1}[place]])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("rule", ["latent_difference", "cosine", "exit_gate"])
def test_a_batch_of_everything_is_each_alone(tmp_path, rule, causal):
    """Halting, an int8 cache, weights in groups of 64, and full attention."""
    stage = SCHEDULES["all-normed"].stages[0].model_copy(update={"causal": causal})
    checkpoint = random_model(GATED, Schedule(name="everything", stages=(stage,)))
    packed = PackedModel.from_checkpoint(checkpoint, "int4", group=64)
    path = write_engine(tmp_path / "everything.safetensors", checkpoint, packed, kv_bits=8)
    halting = Halting(rule=rule, threshold=dividing_threshold(reference_of(packed), f"everything {causal}", rule))
    batch = EngineSession(path, threads=3, sequences=3, halting=halting)
    alone = EngineSession(path, threads=1, halting=halting)
    rows, more = [TOKENS[:5], TOKENS[3:8], TOKENS[6:]], [TOKENS[2:5], TOKENS[1:4]]
    together = batch.run([0, 1, 2], rows, all_logits=True)
    applied = batch.applied
    later = batch.run([2, 0], more, all_logits=True)
    assert applied.min() < applied.max()
    for place, row in enumerate(rows):
        alone.reset()
        assert same_bits(alone.logits(row), together[place])
        assert np.array_equal(alone.applied[:, 0], applied[:, place])
        if place != 1:
            number = {2: 0, 0: 1}[place]
            assert same_bits(alone.logits(more[number]), later[number])
            assert np.array_equal(alone.applied[:, 0], batch.applied[:, number])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("rule", ["latent_difference", "cosine", "exit_gate"])
def test_halting_under_full_attention(tmp_path, rule, threads):
    """The tokens of a call see each other in every loop, those that halted by what they left."""
    stage = SCHEDULES["all-normed"].stages[0].model_copy(update={"causal": False})
    checkpoint, packed = packed_model(GATED, Schedule(name="full", stages=(stage,)))
    model = reference_of(packed)
    halting = Halting(rule=rule, threshold=dividing_threshold(model, "full", rule))
    path = write_engine(tmp_path / "full.safetensors", checkpoint, packed)
    expected, loops = forward(model, halting=halting)
    assert loops.min() < loops.max()
    session = EngineSession(path, threads=threads, halting=halting)
    assert np.abs(session.logits(TOKENS) - expected).max() < 1e-4
    assert np.array_equal(session.applied[:, 0], loops)
    assert np.abs(forward(reference_of(packed_model(GATED, SCHEDULES["all-normed"])[1]))[0] - expected).max() > 1e-2


def test_the_rule_of_the_artifact_is_the_default(tmp_path):
    halting = Halting(rule="exit_gate", threshold=0.7, min_loops=2)
    stage = Stage(blocks=(0, 1, 2), loops=4, max_loops=4, loop_end_norm=True, halting=halting)
    checkpoint, packed = packed_model(GATED, Schedule(name="gated", stages=(stage,)))
    path = write_engine(tmp_path / "gated.safetensors", checkpoint, packed)
    model = reference_of(packed)
    session = EngineSession(path, threads=1)
    expected, loops = forward(model)
    assert (loops >= 2).all()
    assert loops.min() < 4
    assert np.abs(session.logits(TOKENS) - expected).max() < 1e-4
    assert np.array_equal(session.applied[:, 0], loops)
    for other in (Halting(), Halting(rule="latent_difference", threshold=1e9, min_loops=3)):
        session.set_halting(other)
        session.reset()
        assert np.abs(session.logits(TOKENS) - forward(model, halting=other)[0]).max() < 1e-4
        assert (session.applied == (4 if other.rule == "none" else 3)).all()
    session.set_halting(None)
    session.reset()
    assert np.abs(session.logits(TOKENS) - expected).max() < 1e-4


@pytest.mark.parametrize("name", SCHEDULES)
def test_loops_may_change_from_call_to_call(made, name):
    path, model, _ = made(name, "cosine")
    most = model.schedule.max_loops
    session = EngineSession(path, threads=2, sequences=2)
    cache = KvCache()
    for piece, loops in (([3, 66, 0], 1), ([17], most), ([17, 42], 2), ([5], None), ([61, 8], 1), ([30], most)):
        expected, applied = forward(model, piece, cache, loops=loops)
        assert np.abs(session.logits(piece, loops) - expected).max() < 1e-4
        assert np.array_equal(session.applied[:, 0], applied)
    session.fork(0, 1)
    both = session.run([0, 1], [[12], [7]], loops=most)
    expected, _ = forward(model, [12], cache, loops=most)
    assert np.abs(both[0] - expected[-1]).max() < 1e-4
    for loops in (0, most + 1, -1):
        with pytest.raises(MobileloopError, match=f"outside 1-{most}"):
            session.prefill([1], loops)


def test_sequences_that_ran_other_loops_go_on_together(made):
    path, model, _ = made("all", "cosine")
    session = EngineSession(path, threads=2, sequences=3)
    caches = [KvCache(), KvCache(), KvCache()]
    for sequence, loops in ((0, 1), (1, 3)):
        session.run([sequence], [TOKENS[:4]], loops=loops)
        forward(model, TOKENS[:4], caches[sequence], loops=loops)
    for tokens, loops in (([[7], [8], [9]], 2), ([[1], [2], [3]], 4), ([[4], [5], [6]], 1)):
        found = session.run([0, 1, 2], tokens, loops=loops)
        for sequence, row in enumerate(tokens):
            expected, _ = forward(model, row, caches[sequence], loops=loops)
            assert np.abs(found[sequence] - expected[-1]).max() < 1e-4


def test_rules_that_a_session_refuses(made, engine_artifact):
    path, _, _ = made("all", "cosine")
    for halting, words in (
        (Halting(rule="exit_gate", threshold=0.5), "no norm at its loop ends"),
        (Halting(rule="cosine", min_loops=5), "least loops 5 of the halting rule are outside 1-4"),
    ):
        with pytest.raises(MobileloopError, match=words):
            EngineSession(path, halting=halting)
    ungated, _ = engine_artifact(Schedule.repeat_all_over(3, 2, loop_end_norm=True))
    with pytest.raises(MobileloopError, match="needs the weights of an exit gate"):
        EngineSession(ungated, halting=Halting(rule="exit_gate", threshold=0.5))


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["executorch", "onnx"])
def test_other_formats_refuse_a_halting_rule(tmp_path, target):
    stage = Stage(blocks=(0, 1, 2), loops=2, max_loops=2, halting=Halting(rule="cosine", threshold=0.1))
    checkpoint, packed = packed_model(TINY, Schedule(name="halting", stages=(stage,)))
    info = ArtifactInfo.describe(checkpoint, packed, 64, 32)
    with pytest.raises(MobileloopError, match="the schedule halting asks for a halting rule, which"):
        exporter(target)(packed, info, tmp_path / "out", lambda step, share: None)


def test_an_exit_gate_without_weights_is_refused():
    schedule = SCHEDULES["all-normed"]
    stage = schedule.stages[0].model_copy(update={"halting": Halting(rule="exit_gate", threshold=0.5)})
    checkpoint, _ = packed_model(TINY, schedule)
    for make in (PackedModel.from_checkpoint, lambda c, schedule: ReferenceModel.from_checkpoint(c, schedule)):
        with pytest.raises(MobileloopError, match="needs the weights of an exit gate"):
            make(checkpoint, schedule=Schedule(name="gated", stages=(stage,)))


def rewritten(path, change):
    """Change header and metadata of an artifact in place: change(header, info)."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    info = json.loads(header["__metadata__"]["mobileloop"])
    change(header, info)
    header["__metadata__"]["mobileloop"] = json.dumps(info)
    text = json.dumps(header).encode().ljust(size)
    assert len(text) == size
    path.write_bytes(data[:8] + text + data[8 + size :])


def stage_of(info):
    return info["schedule"]["stages"][0]


HOSTILE = {
    "an unknown rule": lambda h, i: stage_of(i)["halting"].update(rule="mood"),
    "a rule that does not run": lambda h, i: stage_of(i)["halting"].update(rule="router"),
    "a rule that is a number": lambda h, i: stage_of(i)["halting"].update(rule=3),
    "a threshold of text": lambda h, i: stage_of(i)["halting"].update(threshold="0.5x"),
    "a negative threshold": lambda h, i: stage_of(i)["halting"].update(threshold=-0.5),
    "a gate that nothing passes": lambda h, i: stage_of(i)["halting"].update(threshold=1.5),
    "no threshold": lambda h, i: stage_of(i)["halting"].update(threshold=None),
    "no least loops": lambda h, i: stage_of(i)["halting"].update(min_loops=0),
    "least loops beyond the bound": lambda h, i: stage_of(i)["halting"].update(min_loops=5),
    "half a least loop": lambda h, i: stage_of(i)["halting"].update(min_loops=1.5),
    "no norm for the gate": lambda h, i: stage_of(i).update(loop_end_norm=False),
    "no gate": lambda h, i: i["config"].update(exit_gate=False),
    "a gate that is no truth": lambda h, i: i["config"].update(exit_gate="maybe"),
    "no weights": lambda h, i: h.pop("exit_gate.weight"),
    "no bias": lambda h, i: h.pop("exit_gate.bias"),
    "weights of bytes": lambda h, i: h["exit_gate.weight"].update(dtype="U8", shape=[256]),
    "weights cut short": lambda h, i: h["exit_gate.weight"].update(data_offsets=h["exit_gate.bias"]["data_offsets"]),
    "weights outside": lambda h, i: h["exit_gate.weight"].update(data_offsets=[1 << 40, (1 << 40) + 256]),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_halting_fields(tmp_path, what):
    import ctypes

    from mobileloop.runtimes import native

    stage = Stage(
        blocks=(0,), loops=4, max_loops=4, loop_end_norm=True, halting=Halting(rule="exit_gate", threshold=0.5)
    )
    checkpoint, packed = packed_model(GATED, Schedule(name="gated", stages=(stage,)), "int4")
    path = write_engine(tmp_path / "hostile.safetensors", checkpoint, packed)
    EngineSession(path, threads=1).prefill(TOKENS)
    rewritten(path, HOSTILE[what])
    with pytest.raises(MobileloopError):
        EngineSession(path, threads=1).prefill(TOKENS)
    model = ctypes.c_void_p()  # and the engine alone, without Python's checks before it
    with pytest.raises(MobileloopError, match=path.name):
        native.check(native.library().ml_model_open(str(path).encode(), ctypes.byref(model)))
    assert not model


def test_a_file_of_format_1_still_runs(engine_artifact):
    path, _ = engine_artifact(Schedule.immediate(3, 2))

    def older(header, info):
        info["format_version"] = 1
        del info["config"]["exit_gate"]
        for stage in info["schedule"]["stages"]:
            del stage["halting"]["min_loops"]

    expected = EngineSession(path, threads=1).logits(TOKENS)
    rewritten(path, older)
    assert np.array_equal(EngineSession(path, threads=1).logits(TOKENS), expected)
