"""Calibration: each matrix meets the inputs of the artifact, looped or not, and everything repeats."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import TINY, add_tokenizer, schedules, write_folder

from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError
from mobileloop.packed import Choice, PackedModel, planned
from mobileloop.quant.calibrate import WINDOW, Moments, calibrated, moments_of, windows
from mobileloop.quant.fit import LEAST_TOKENS, Text, Wanted, fit, weights_sha256
from mobileloop.quant.price import affordable_tokens, divergence, price
from mobileloop.quant.sensitivity import Sensing, damages
from mobileloop.reference.model import ReferenceModel, float_tensors
from mobileloop.spec.schedule import Schedule

TOKENS = [(7 * i + i * i // 3) % 67 for i in range(600)]
UNTIED = TINY.model_copy(update={"tie_embeddings": False})


def texted(folder, config=TINY, **changes):
    """A checkpoint with a tokenizer of bytes."""
    config = config.model_copy(update={"vocab_size": 259, **changes})
    model = random_model(config)
    return load_checkpoint(str(add_tokenizer(write_folder(folder / "model", model))))


def kl(checkpoint, tensors, schedule, tokens):
    def answers(weights):
        logits = ReferenceModel(checkpoint.config, schedule, weights).forward(torch.tensor([tokens]))[0]
        return logits.log_softmax(-1)

    return divergence(answers(float_tensors(checkpoint)), answers({**float_tensors(checkpoint), **tensors}))


def dequantized(made):
    return {name: tensor.dequantize() for name, tensor in made.items()}


def test_windows():
    assert windows(range(2 * WINDOW + 9)).shape == (2, WINDOW)
    assert windows(range(40)).tolist() == [list(range(40))]
    assert windows(range(10 * WINDOW), most=3 * WINDOW).shape == (3, WINDOW)


@pytest.mark.parametrize("config", [TINY, UNTIED], ids=["tied", "untied"])
@pytest.mark.parametrize("name", ["damped", "mixed", "plain"])  # undamped loops of random weights amplify any error
def test_closer_to_the_source_than_rounding(name, config):
    schedule = schedules()[name]
    checkpoint = random_model(config, schedule)
    plan = planned(checkpoint, "int4-symmetric")
    made = calibrated(checkpoint, plan, schedule, TOKENS)
    assert set(made) == set(plan)
    assert all((made[n].scheme, made[n].group) == (plan[n].scheme, plan[n].group) for n in plan)
    rounded = PackedModel.from_checkpoint(checkpoint, "int4-symmetric", schedule).dequantized()
    held_out = TOKENS[300:400][::-1]
    gain = kl(checkpoint, rounded, schedule, held_out) / kl(checkpoint, dequantized(made), schedule, held_out)
    assert gain > 1.2


def test_it_repeats_to_the_bit():
    checkpoint = random_model(TINY)
    one, two = (calibrated(checkpoint, planned(checkpoint), schedules()["mixed"], TOKENS) for _ in range(2))
    assert weights_sha256(one) == weights_sha256(two)


def test_what_is_not_quantized_again_is_not_touched():
    original = random_model(TINY)
    packed = PackedModel.from_checkpoint(original, "int4")
    kept = replace(original, tensors={**original.tensors, "blocks.1.q_proj": packed.tensors["blocks.1.q_proj"]})
    made = calibrated(kept, planned(kept), kept.schedule, TOKENS)
    assert set(planned(kept)) - set(made) == {"blocks.1.q_proj"}


def test_blocks_that_the_schedule_leaves_out_are_quantized_too():
    checkpoint = random_model(TINY)
    made = calibrated(checkpoint, planned(checkpoint), Schedule.plain(2), TOKENS)
    assert "blocks.2.q_proj" in made


def test_moments_of_loops_are_of_every_application_behind_the_first(tmp_path):
    checkpoint, schedule = random_model(TINY), Schedule.immediate(3, 3)
    batch = windows(TOKENS)
    moments = [Moments(tmp_path / name) for name in ("all", "later")]
    for one, skip in zip(moments, (False, True), strict=True):
        one.folder.mkdir()
        one.gather(
            checkpoint, schedule, batch, None, {"blocks.1.q_proj", "embedding"}, lambda *_: None, skip_first=skip
        )
    model, seen = ReferenceModel.from_checkpoint(checkpoint, schedule), []
    product = model._product
    model._product = lambda name, inputs, wanted=True: (seen.append((name, inputs)), product(name, inputs, wanted))[1]
    model.forward(batch)
    met = [moments_of(inputs) for name, inputs in seen if name == "blocks.1.q_proj"]
    assert len(met) == 3
    assert np.allclose(moments[0].of("blocks.1.q_proj"), sum(met), rtol=1e-5)
    assert np.allclose(moments[1].of("blocks.1.q_proj"), sum(met[1:]), rtol=1e-5)
    (head,) = (moments_of(inputs) for name, inputs in seen if name == "embedding")
    assert np.allclose(moments[1].of("embedding"), head, rtol=1e-5)
    assert moments[1].of("blocks.2.q_proj") is None


@pytest.mark.parametrize("loops", [1, None])
def test_loops_can_be_left_out_of_the_calibration(loops):
    """An undamped loop of a model that never looped is for speed: the weights are fitted without it."""
    checkpoint = random_model(TINY)
    plain = calibrated(checkpoint, planned(checkpoint), checkpoint.schedule, TOKENS)
    looped = calibrated(checkpoint, planned(checkpoint), Schedule.immediate(3, 4), TOKENS, loops=loops)
    assert (weights_sha256(plain) == weights_sha256(looped)) == (loops == 1)


# -- what a choice would cost ------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(schedules()))
def test_every_schedule_is_fitted_whole(name):
    checkpoint, schedule = random_model(TINY), schedules()[name]
    plan = planned(checkpoint, "int4")
    made = calibrated(checkpoint, plan, schedule, TOKENS)
    assert all((made[n].scheme, made[n].group) == (plan[n].scheme, plan[n].group) for n in plan)
    for matrix, tensor in made.items():
        away = np.linalg.norm(tensor.dequantize() - checkpoint.tensors[matrix])
        assert away < 0.3 * np.linalg.norm(checkpoint.tensors[matrix])


def test_damage_foretells_the_divergence(tmp_path):
    """The second-order estimate of one matrix's noise, beside the divergence that this noise makes."""
    checkpoint, tokens = random_model(UNTIED), TOKENS[:512]
    batch = windows(tokens)
    sensing = Sensing(checkpoint.config, checkpoint.schedule, float_tensors(checkpoint))
    sensing.sense(batch, None)
    moments = Moments(tmp_path)
    names = {"blocks.0.down_proj", "blocks.1.v_proj", "blocks.2.gate_proj", "head"}
    moments.gather(checkpoint, checkpoint.schedule, batch, None, names, lambda *_: None)
    random = np.random.default_rng(0)
    for name in sorted(names):
        weights, held = float_tensors(checkpoint)[name], moments.of(name)
        noise = 0.02 * random.standard_normal(weights.shape).astype(np.float32)
        rows = (sensing.rows[name] / sensing.tokens).numpy() / np.trace(held)
        foretold = 0.5 * float(rows @ np.einsum("ri,ij,rj->r", noise, held, noise))
        found = np.mean(
            [kl(checkpoint, {name: weights + noise}, checkpoint.schedule, window.tolist()) for window in batch]
        )
        assert foretold == pytest.approx(found, rel=0.4), name


def test_more_bits_always_cost_less():
    random = np.random.default_rng(0)
    weights = random.standard_normal((6, 128)).astype(np.float32)
    inputs = random.standard_normal((300, 128)).astype(np.float32)
    found = damages(
        weights,
        inputs.T @ inputs / 300,
        np.ones(6, np.float32),
        [Choice(s, g) for s in ("int4", "int8") for g in (32, 128)],
    )
    assert (
        found[Choice("int8", 32)] < found[Choice("int8", 128)] < found[Choice("int4", 32)] < found[Choice("int4", 128)]
    )
    looked_up = damages(weights, None, np.zeros(6, np.float32), [Choice("int4", 32)], np.ones(128, np.float32))
    assert looked_up[Choice("int4", 32)] > 0


# -- a text -----------------------------------------------------------------------------------------


def test_fit_says_what_it_did(tmp_path):
    checkpoint = texted(tmp_path)
    fitted = fit(checkpoint, checkpoint.schedule, Wanted("int4"), Text.packaged())
    said = fitted.calibration
    assert said.text == "packaged"
    assert said.text_sha256 == Text.packaged().sha256
    assert said.tokens == 8192  # of bytes: the text has ten thousand
    assert said.weights_sha256 == weights_sha256(fitted.tensors)
    packed = PackedModel.from_checkpoint(checkpoint, "int4", fitted=fitted)
    assert packed.calibration == said
    assert packed.tensors["blocks.0.q_proj"] is fitted.tensors["blocks.0.q_proj"]


def test_a_budget_is_kept_and_spent(tmp_path):
    checkpoint = texted(tmp_path)
    text = Text("own", Text.packaged().text[:2000])
    small = PackedModel.from_checkpoint(checkpoint, "int4-symmetric", group=128).weight_bytes()
    large = PackedModel.from_checkpoint(checkpoint, "int8").weight_bytes()
    last = None
    for budget in (small, (small + large) // 2, large):
        fitted = fit(checkpoint, checkpoint.schedule, Wanted(budget_bytes=budget), text)
        packed = PackedModel.from_checkpoint(checkpoint, fitted=fitted)
        assert 0.9 * budget < packed.weight_bytes() <= budget
        assert fitted.calibration.budget_bytes == budget
        cost = price(checkpoint, packed).mean_kl
        assert last is None or cost < last
        last = cost
    schemes = {choice.scheme for choice in fitted.plan.values()}
    assert schemes == {"int8"}


def test_groups_of_a_budget_can_be_bounded(tmp_path):
    checkpoint = texted(tmp_path)
    fitted = fit(checkpoint, checkpoint.schedule, Wanted(budget_bytes=10**6, groups=(32,)), Text("own", "word " * 40))
    assert {choice.group for choice in fitted.plan.values()} == {32}


@pytest.mark.parametrize(
    ("changes", "text", "budget", "words"),
    [
        ({}, "too short", None, f"has 9 tokens, and at least {LEAST_TOKENS} are needed"),
        ({}, "", None, "has 0 tokens"),
        ({}, "long enough " * 20, 5000, r"take at least 0\.0\d MB, more than the budget"),
        (
            {"hidden_size": 68, "num_heads": 1, "num_kv_heads": 1},
            "long enough " * 20,
            10**6,
            "inputs of .* in no group",
        ),
    ],
)
def test_what_cannot_be_fitted(tmp_path, changes, text, budget, words):
    checkpoint = texted(tmp_path, **changes)
    with pytest.raises(MobileloopError, match=words):
        fit(checkpoint, checkpoint.schedule, Wanted(budget_bytes=budget), Text("own.txt", text))


def test_no_tokenizer_no_text():
    checkpoint = random_model(TINY)
    with pytest.raises(MobileloopError, match="has no tokenizer, so no text can calibrate it"):
        fit(checkpoint, checkpoint.schedule, Wanted(), Text.packaged())


@pytest.mark.parametrize("name", ["final_norm", "blocks.1.input_layernorm"])
@pytest.mark.parametrize("budget", [None, 10**6])
def test_a_model_that_computes_no_numbers_is_told(tmp_path, name, budget):
    checkpoint = texted(tmp_path)
    broken = np.full(64, np.nan, np.float32)
    damaged = replace(checkpoint, tensors={**checkpoint.tensors, name: broken})
    with pytest.raises(MobileloopError, match="computes numbers that are not finite; check the checkpoint"):
        fit(damaged, damaged.schedule, Wanted(budget_bytes=budget), Text("own", "some words " * 30))


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_that_are_no_numbers_are_told(tmp_path, value):
    checkpoint = texted(tmp_path)
    weights = checkpoint.tensors["blocks.0.v_proj"].copy()
    weights[3, 5] = value
    damaged = replace(checkpoint, tensors={**checkpoint.tensors, "blocks.0.v_proj": weights})
    with pytest.raises(MobileloopError, match=r"not (a )?finite"):
        fit(damaged, damaged.schedule, Wanted(), Text("own", "some words " * 30))


def test_windows_are_no_longer_than_the_model_was_made_for(tmp_path):
    checkpoint = texted(tmp_path, max_position=48)
    fitted = fit(checkpoint, checkpoint.schedule, Wanted(), Text("own", "word " * 25))
    assert fitted.calibration.tokens == 2 * 48  # of 125 bytes
    assert price(checkpoint, PackedModel.from_checkpoint(checkpoint, fitted=fitted)).tokens == 48


# -- the price --------------------------------------------------------------------------------------


def test_the_price_is_the_divergence_over_the_packaged_text(tmp_path):
    checkpoint = texted(tmp_path)
    packed = PackedModel.from_checkpoint(checkpoint, "int4")
    found = price(checkpoint, packed)
    assert found.tokens == 256
    assert found.mean_kl > 0
    exact = PackedModel.from_checkpoint(checkpoint, "none")
    assert price(checkpoint, exact).mean_kl == 0
    lost = torch.full((3, 4), torch.nan)
    assert np.isnan(divergence(lost, lost))


def test_a_price_takes_a_bounded_time(tmp_path):
    small = affordable_tokens(TINY, Schedule.plain(3))
    big = TINY.model_copy(update={"hidden_size": 4096, "intermediate_size": 16384, "num_blocks": 40})
    assert small == 256
    assert affordable_tokens(big, Schedule.plain(40)) == 0
    checkpoint = random_model(TINY)
    assert price(checkpoint, PackedModel.from_checkpoint(checkpoint)) is None  # no tokenizer
