"""The real SmolLM2-135M-Instruct: the answers, the limits and the memory that its artifacts must keep to."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import gguf
import numpy as np
import pytest
import torch

from mobileloop.artifact import ArtifactInfo
from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.decode.generate import generate
from mobileloop.decode.sampling import Sampler
from mobileloop.packed import PackedModel
from mobileloop.quant.schemes import QuantTensor
from mobileloop.reference.model import ReferenceModel
from mobileloop.runtimes import open_session
from mobileloop.spec.schedule import Schedule
from mobileloop.tokenizer import Tokenizer
from mobileloop.verify import EXACT_LIMITS, QUANTIZED_LIMITS, compare, verification_tokens
from mobileloop_export.formats import FORMATS, exporter

pytestmark = pytest.mark.real
CONTEXT = 256


@pytest.fixture(scope="module")
def checkpoint(real_source):
    return load_checkpoint(str(real_source))


@pytest.fixture(scope="module")
def tokens(checkpoint, real_source):
    """The packaged text in this model's tokens."""
    from importlib import resources

    text = resources.files("mobileloop.data").joinpath("verify.txt").read_text(encoding="utf-8")
    return Tokenizer(checkpoint.tokenizer).encode(text)


def write(path, target, checkpoint, quantization, schedule):
    packed = PackedModel.from_checkpoint(checkpoint, quantization, schedule)
    info = ArtifactInfo.describe(checkpoint, packed, CONTEXT, 32 if quantization == "none" else 16)
    exporter(target)(packed, info, path, lambda step, share: None)
    return path


@pytest.fixture(scope="module")
def artifacts(checkpoint, tmp_path_factory):
    """int4 in three formats, plain."""
    folder = tmp_path_factory.mktemp("real")
    plain = Schedule.plain(checkpoint.config.num_blocks)
    return {
        target: write(folder / f"real{suffix}", target, checkpoint, "int4", plain) for target, suffix in FORMATS.items()
    }


@pytest.fixture(scope="module")
def looped(checkpoint, tmp_path_factory):
    """int4 for the engine, every block up to 4 times."""
    schedule = Schedule.immediate(checkpoint.config.num_blocks, 4)
    return write(tmp_path_factory.mktemp("looped") / "looped.safetensors", "engine", checkpoint, "int4", schedule)


def answer(session, tokenizer, question="What is the capital of France?", most=24):
    result = generate(session, tokenizer.chat(question), most, Sampler(), tokenizer.is_end, lambda token: None)
    return tokenizer.decode(result.tokens)


# -- the source ------------------------------------------------------------------------------------


def test_dequantized_tensors_are_the_gguf_packages_bit_for_bit(checkpoint, real_source):
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(str(real_source)).tensors}
    seen = set()
    for ours, theirs in {
        "embedding": "token_embd.weight",
        "blocks.0.v_proj": "blk.0.attn_v.weight",
        "blocks.7.o_proj": "blk.7.attn_output.weight",
        "blocks.13.gate_proj": "blk.13.ffn_gate.weight",
        "blocks.29.down_proj": "blk.29.ffn_down.weight",
        "blocks.29.input_layernorm": "blk.29.attn_norm.weight",
    }.items():
        tensor, source = checkpoint.tensors[ours], stored[theirs]
        seen.add(source.tensor_type.name)
        found = tensor.dequantize() if isinstance(tensor, QuantTensor) else tensor
        expected = gguf.quants.dequantize(source.data, source.tensor_type)
        assert np.array_equal(found.view(np.uint32), expected.reshape(found.shape).view(np.uint32)), ours
    assert "Q4_1" in seen


def test_query_rows_are_only_reordered(checkpoint, real_source):
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(str(real_source)).tensors}
    for ours, theirs, heads in (("q_proj", "attn_q", 9), ("k_proj", "attn_k", 3)):
        source = stored[f"blk.5.{theirs}.weight"]
        rows = gguf.quants.dequantize(source.data, source.tensor_type)
        half = rows.shape[0] // heads // 2
        expected = rows.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(rows.shape)
        assert np.array_equal(checkpoint.tensors[f"blocks.5.{ours}"].dequantize(), expected)


def test_the_blocks_survive_packing(checkpoint):
    packed = PackedModel.from_checkpoint(checkpoint, "int4").dequantized()
    for name in ("blocks.0.q_proj", "blocks.16.up_proj"):
        assert np.array_equal(packed[name], checkpoint.tensors[name].dequantize())


def test_logits_are_those_of_transformers(checkpoint, tokens):
    from transformers import LlamaConfig, LlamaForCausalLM

    from mobileloop.families.family import llama_tensor_name

    config = checkpoint.config
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_blocks,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.rms_norm_eps,
            rope_theta=config.rope_theta,
            max_position_embeddings=config.max_position,
            tie_word_embeddings=config.tie_embeddings,
        )
    ).eval()
    reference = ReferenceModel.from_checkpoint(checkpoint)
    weights = {llama_tensor_name(name): tensor for name, tensor in reference.tensors.items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}  # tied
    ids = torch.tensor([tokens[:48]])
    with torch.no_grad():
        expected = model(ids).logits
    assert float((reference.forward(ids) - expected).abs().max()) < 1e-3


def test_the_damped_loop_needs_no_training(checkpoint, tokens):
    """Blocks 12 to 17 twice in half steps (arXiv 2605.23872): it answers, and its perplexity stays within 5%."""
    schedule = Schedule.parse("range:12-17:2:0.5", checkpoint.config.num_blocks)
    ids = torch.tensor([tokens[:256]])

    def perplexity(model):
        loss = torch.nn.functional.cross_entropy(model.forward(ids)[0, :-1], ids[0, 1:])
        return math.exp(float(loss))

    plain = perplexity(ReferenceModel.from_checkpoint(checkpoint))
    damped = perplexity(ReferenceModel.from_checkpoint(checkpoint, schedule))
    assert abs(damped / plain - 1) < 0.05, (plain, damped)


# -- the artifacts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", FORMATS)
def test_answers_paris(artifacts, target, checkpoint):
    session = open_session(artifacts[target])
    assert "Paris" in answer(session, Tokenizer(session.info.tokenizer))
    session.close()


def test_the_damped_artifact_answers_paris(checkpoint, tmp_path):
    schedule = Schedule.parse("range:12-17:2:0.5", checkpoint.config.num_blocks)
    session = open_session(write(tmp_path / "damped.safetensors", "engine", checkpoint, "int4", schedule))
    assert "Paris" in answer(session, Tokenizer(session.info.tokenizer))
    session.close()


@pytest.mark.parametrize("target", FORMATS)
def test_verify_limits(artifacts, target, checkpoint):
    session = open_session(artifacts[target])
    result = compare(session, checkpoint, verification_tokens(session, 128))
    session.close()
    assert result.within(QUANTIZED_LIMITS), result


def test_verify_limits_at_two_loops(looped, checkpoint):
    session = open_session(looped, loops=2)
    result = compare(session, checkpoint, verification_tokens(session, 128))
    session.close()
    assert result.within(QUANTIZED_LIMITS), result


def test_an_unquantized_artifact_is_exact(checkpoint, tmp_path):
    path = write(tmp_path / "a.safetensors", "engine", checkpoint, "none", Schedule.plain(checkpoint.config.num_blocks))
    session = open_session(path)
    result = compare(session, checkpoint, verification_tokens(session, 32))
    session.close()
    assert result.within(EXACT_LIMITS), result


@pytest.mark.parametrize("target", FORMATS)
def test_the_file_holds_its_weights_and_little_else(artifacts, target):
    session = open_session(artifacts[target], threads=1)
    info = session.info
    session.close()
    tokenizer = len(json.dumps(info.tokenizer.json_text))
    assert artifacts[target].stat().st_size <= 1.02 * info.costs.weight_bytes + 1.5 * tokenizer


MEMORY = """
import json, sys
from mobileloop.runtimes import engine, open_session

def anonymous():
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) * 1024 for line in stream if line.startswith("RssAnon"))

engine.preload()
path, loops = sys.argv[1], int(sys.argv[2])
before = anonymous()
session = open_session(path, threads=2, loops=loops)
session.prefill(list(range(100, 164)))
most = anonymous()
for token in range(24):
    session.decode(token)
    most = max(most, anonymous())
print(json.dumps({"bytes": most - before, "kv": session.info.kv_bytes(87, loops)}))
"""


def test_the_engines_memory_does_not_grow_with_loops(looped):
    """Anonymous memory while decoding: the KV rows in use and a fixed amount; weights are clean file pages."""
    besides = {}
    for loops in (1, 4):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, looped, str(loops)], capture_output=True, text=True, timeout=120, check=True
        )
        facts = json.loads(done.stdout)
        besides[loops] = facts["bytes"] - facts["kv"]
        assert besides[loops] < 40e6, facts
    assert abs(besides[4] - besides[1]) < 8e6, besides
