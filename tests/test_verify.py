import json
import math
from dataclasses import asdict, replace
from importlib import resources
from types import SimpleNamespace

import numpy as np
import pytest
from builders import TINY, add_tokenizer, kl_divergence, mixed_schedule, write_engine, write_folder
from typer.testing import CliRunner

from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.checkpoints.random import random_model
from mobileloop.cli import app
from mobileloop.errors import MobileloopError
from mobileloop.packed import PackedModel
from mobileloop.runtimes import open_session
from mobileloop.spec.schedule import Schedule
from mobileloop.verify import (
    EXACT_LIMITS,
    QUANTIZED_LIMITS,
    Comparison,
    Limits,
    check_same_source,
    compare,
    verification_tokens,
)

TOKENS = [(11 * i + i * i) % 67 for i in range(150)]


class Changed:
    """A session whose logits pass through `change`."""

    def __init__(self, session, change):
        self._session, self._change = session, change
        self.info, self.loops, self.path = session.info, session.loops, session.path
        self.requested_loops, self.reset = session.requested_loops, session.reset

    def logits(self, tokens):
        return self._change(self._session.logits(tokens))

    def prefill(self, tokens):
        return self._change(self._session.prefill(tokens))

    def decode(self, token):
        return self._change(self._session.decode(token))


@pytest.fixture
def pair(tmp_path):
    """make(quantization, schedule, **options) -> (session, the checkpoint it was made of)."""

    def make(quantization="none", schedule=None, kv_bits=32, **options):
        checkpoint = random_model(TINY, schedule)
        packed = PackedModel.from_checkpoint(checkpoint, quantization)
        path = write_engine(tmp_path / "a.safetensors", checkpoint, packed, 64, kv_bits)
        return open_session(path, threads=1, **options), checkpoint

    return make


def test_an_exact_artifact(pair):
    result = compare(*pair(schedule=mixed_schedule()), TOKENS)  # three windows of the context
    assert result.within(EXACT_LIMITS)
    assert result.tokens == 150
    assert result.top1_agreement == 1
    assert result.max_abs_logit_difference < 1e-4
    assert result.artifact_perplexity == pytest.approx(result.reference_perplexity, rel=1e-5)
    assert all(type(value) in (int, float) for value in asdict(result).values())


@pytest.mark.parametrize("loops", [1, 3])
def test_a_quantized_artifact_at_other_loops(pair, loops):
    session, checkpoint = pair("int4", Schedule.immediate(3, 3), 16, loops=loops)
    seen = []
    result = compare(session, checkpoint, TOKENS[:70], lambda step, done: seen.append((step, done)))
    assert result.within(QUANTIZED_LIMITS)
    assert [step for step, _ in seen] == ["reference", "artifact"] * 2
    assert sorted(done for _, done in seen) == [done for _, done in seen]


def test_a_wrong_artifact_is_found(pair):
    session, checkpoint = pair()
    result = compare(Changed(session, lambda x: x * 1.2), checkpoint, TOKENS)
    assert result.mean_kl > 1e-3
    assert not result.within(EXACT_LIMITS)
    result = compare(Changed(session, np.negative), checkpoint, TOKENS)
    assert result.top1_agreement < 0.5
    assert not result.within(QUANTIZED_LIMITS)


def test_a_wrong_cache_is_found(pair):
    """Half of each window is decoded token by token, so a decode that goes wrong does not hide."""
    session, checkpoint = pair()

    class Forgetful(Changed):
        def decode(self, token):
            return self._session.decode((token + 1) % 67)

    assert not compare(Forgetful(session, lambda x: x), checkpoint, TOKENS).within(QUANTIZED_LIMITS)


def test_figures_are_those_of_the_definitions(pair):
    session, checkpoint = pair()
    changed = Changed(session, lambda x: x + np.float32(0.5) * (np.arange(67, dtype=np.float32) == 3))
    tokens = TOKENS[:2]
    result = compare(changed, checkpoint, tokens)
    assert result.max_abs_logit_difference == pytest.approx(0.5, abs=1e-4)
    session.reset()
    truth = session.logits(tokens)
    other = truth.copy()
    other[:, 3] += 0.5
    worst = kl_divergence(truth, other)
    assert 0 < result.mean_kl <= worst + 1e-6

    def perplexity(logits):
        row = logits[0].astype(np.float64)
        return math.exp(np.log(np.exp(row).sum()) - row[tokens[1]])

    assert result.reference_perplexity == pytest.approx(perplexity(truth), rel=1e-4)
    assert result.artifact_perplexity == pytest.approx(perplexity(other), rel=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite(pair, value):
    session, checkpoint = pair()
    with pytest.raises(MobileloopError, match="not finite"):
        compare(Changed(session, lambda x: x + np.float32(value)), checkpoint, TOKENS)


def test_limits_are_bounds():
    result = Comparison(2, 0.01, 0.96, 0.0, 1.0, 1.0)
    assert not result.within(Limits(0.01, 0.9))
    assert not result.within(Limits(0.02, 0.96))
    assert result.within(Limits(0.0101, 0.9599))


def test_another_source(pair):
    session, checkpoint = pair()
    check_same_source(session, checkpoint)
    other = SimpleNamespace(source="other.gguf", sha256="0" * 64)
    with pytest.raises(MobileloopError, match=r"other\.gguf is another file \(sha256 000000000000\)"):
        check_same_source(session, other)


@pytest.mark.parametrize(
    "change",
    [
        {"rope_theta": 3.0},
        {"rms_norm_eps": 0.5},
        {"max_position_embeddings": 256},
        {"rope_theta": 3, "rms_norm_eps": 0.5},
    ],
)
def test_another_config_beside_the_same_weights(tmp_path, change):
    """The artifact's own config is no measure of it."""
    folder, path = write_folder(tmp_path / "m", random_model(TINY)), str(tmp_path / "a.safetensors")

    def run(*words):
        done = CliRunner().invoke(app, [*words, "--json"])
        return done.exit_code, " ".join(done.output.split())

    assert run("export", str(folder), "--context", "64", "-o", path)[0] == 0
    verify = ("verify", path, "--against", str(folder), "--tokens", "40")
    code, told = run(*verify)
    assert code == 0, told
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    code, told = run(*verify)
    assert code == 2, told
    assert "has another config than" in told
    names = {"max_position_embeddings": "max_position"}
    for name, value in change.items():
        assert f"{names.get(name, name)} (" in told
        assert f"{value} in the source)" in told or f"{float(value)} in the source)" in told
    assert "hidden_size" not in told


def test_names_and_the_note_of_random_weights_are_no_other_config(pair):
    session, checkpoint = pair()
    config = checkpoint.config.model_copy(update={"name": "renamed", "random_weights": False})
    check_same_source(session, replace(checkpoint, config=config))


@pytest.mark.parametrize("change", [{"rope_theta": 3.0}, {"rms_norm_eps": 0.5}, {"rope_pairing": "interleaved"}])
def test_the_reference_has_the_config_of_the_source(pair, change):
    session, checkpoint = pair()
    other = replace(checkpoint, config=checkpoint.config.model_copy(update=change))
    assert not compare(session, other, TOKENS).within(EXACT_LIMITS)


def test_tokens(tmp_path, pair):
    session, _ = pair()
    tokens = verification_tokens(session, 600)  # there is no tokenizer, so they are random, and always the same
    assert tokens == verification_tokens(session, 600)
    assert all(0 <= token < 67 for token in tokens)
    config = TINY.model_copy(update={"vocab_size": 259})
    checkpoint = load_checkpoint(str(add_tokenizer(write_folder(tmp_path / "m", random_model(config)))))
    packed = PackedModel.from_checkpoint(checkpoint, "none")
    session = open_session(write_engine(tmp_path / "b.safetensors", checkpoint, packed), threads=1)
    assert len(verification_tokens(session, 512)) == 512
    assert len(verification_tokens(session, 3, "abc")) == 3
    with pytest.raises(MobileloopError, match="the text has 3 tokens where 4 were asked for"):
        verification_tokens(session, 4, "abc")


def test_the_packaged_text_is_long_enough():
    text = resources.files("mobileloop.data").joinpath("verify.txt").read_text(encoding="utf-8")
    assert len(text.split()) > 600
