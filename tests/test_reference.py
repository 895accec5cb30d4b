import json

import numpy as np
import pytest
import torch
from builders import DATA, TINY, full_attention_schedule, golden, hf_config, schedules
from safetensors.numpy import load_file

from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError
from mobileloop.families.family import llama_tensor_name
from mobileloop.families.llama import read_config
from mobileloop.reference.cache import KvCache
from mobileloop.reference.layers import rms_norm
from mobileloop.reference.model import ReferenceModel
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule, Stage

TOLERANCE = 1e-4


def close(a, b, tolerance=TOLERANCE):
    return np.abs(np.asarray(a) - np.asarray(b)).max() < tolerance


def cached_decode(model, tokens, loops=None, steps=None):
    """Logits of `tokens` [batch, tokens] through a cache, in pieces of `steps` tokens (default one at a time)."""
    cache, pieces, at = KvCache(), [], 0
    for step in steps or [1] * tokens.shape[1]:
        pieces.append(model.forward(tokens[:, at : at + step], cache, loops))
        at += step
    assert at == tokens.shape[1] == cache.position
    return torch.cat(pieces, dim=1)


def tokens_of(count=9, batch=2, seed=1):
    return torch.randint(0, TINY.vocab_size, (batch, count), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["mobilellm_base", "mobilellm_ls"])
def test_golden_mobilellm(name):
    model = ReferenceModel.from_checkpoint(load_checkpoint(str(DATA / name / "model")))
    io = golden(name)
    tokens, trace = torch.from_numpy(io["input_ids"]), []
    logits = model.forward(tokens, trace=trace)
    assert close(logits, io["logits"])
    assert close(torch.stack(trace), io["block_outputs"])
    assert close(rms_norm(trace[-1], model.tensors["final_norm"], model.config.rms_norm_eps), io["final_norm"])
    assert close(torch.nn.functional.embedding(tokens, model.tensors["embedding"]), io["embeddings"])
    key = "logits_cached_decode" if name == "mobilellm_base" else "logits_cached_decode_two_slots"
    assert close(cached_decode(model, tokens), io[key])


def test_golden_layer_share_reads_its_schedule_from_the_config():
    checkpoint = load_checkpoint(str(DATA / "mobilellm_ls" / "model"))
    assert checkpoint.schedule == Schedule.immediate(3, 2)
    assert checkpoint.config.tie_embeddings  # share_embedding, though tie_word_embeddings is false


def test_golden_middle_cycle():
    folder = DATA / "recursive_middle_cycle"
    raw = json.loads((folder / "config.json").read_text())["model_config"]
    io = golden("recursive_middle_cycle")
    distinct = sorted(set(io["layer_to_block"].tolist()))
    config = ModelConfig(**{**read_config(raw), "num_blocks": len(distinct)})
    stored = load_file(folder / "weights.safetensors")
    tensors = {}
    for name in config.tensor_shapes():
        place, _, rest = name.removeprefix("blocks.").partition(".")
        source = f"blocks.{distinct[int(place)]}.{rest}" if name.startswith("blocks.") else name
        tensors[name] = stored[llama_tensor_name(source)]
    middle = Stage(blocks=(1, 2), loops=2, max_loops=2)
    schedule = Schedule(name="middle-cycle", stages=(Stage(blocks=(0,)), middle, Stage(blocks=(3,))))
    assert [distinct[a.block] for a in schedule.applications()] == io["layer_to_block"].tolist()
    model = ReferenceModel(config, schedule, tensors)
    tokens, trace = torch.from_numpy(io["input_ids"]), []
    assert close(model.forward(tokens, trace=trace), io["logits"])
    assert close(torch.stack(trace), io["block_outputs"])
    assert close(cached_decode(model, tokens), io["logits_cached_decode"])


@pytest.mark.parametrize("shape", ["immediate", "all"])
@pytest.mark.parametrize("loops", [1, 2, 4])
def test_cached_decode_equals_no_cache(shape, loops):
    model = ReferenceModel.from_checkpoint(random_model(TINY, Schedule.parse(f"{shape}:4", 3)))
    tokens = tokens_of()
    expected = model.forward(tokens, loops=loops)
    assert close(cached_decode(model, tokens, loops), expected)
    assert close(cached_decode(model, tokens, loops, steps=[4, 1, 3, 1]), expected)


@pytest.mark.parametrize("name", list(schedules()))
def test_every_shape_decodes_as_it_prefills(name):
    model = ReferenceModel.from_checkpoint(random_model(TINY, schedules()[name]))
    for loops in (None, model.schedule.max_loops):
        assert close(cached_decode(model, tokens_of(), loops), model.forward(tokens_of(), loops=loops))


@pytest.mark.parametrize("tied", [True, False])
def test_equals_transformers_llama(tmp_path, tied):
    transformers = pytest.importorskip("transformers")
    shape = {k: v for k, v in _hf_shape(tied).items() if k != "model_type"}
    torch.manual_seed(3)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape)).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "norm" in name:
                parameter.normal_(1, 0.2)
            else:
                parameter.normal_(0, 0.1)
    theirs.save_pretrained(tmp_path)
    ours = ReferenceModel.from_checkpoint(load_checkpoint(str(tmp_path)))
    tokens = tokens_of(17)
    with torch.no_grad():
        assert close(ours.forward(tokens), theirs(tokens).logits)


def _hf_shape(tied):
    return hf_config(TINY, tie_word_embeddings=tied, rope_theta=20000.0)


@pytest.mark.parametrize("damping", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("norm", [False, True])
def test_damping_and_loop_end_norm_against_a_hand_written_loop(damping, norm):
    checkpoint = random_model(TINY, seed=5)
    stage = Stage(blocks=(0, 1), loops=3, max_loops=3, damping=damping, loop_end_norm=norm)
    looped = ReferenceModel.from_checkpoint(checkpoint, Schedule(stages=(stage, Stage(blocks=(2,)))))
    once = ReferenceModel.from_checkpoint(checkpoint, Schedule.plain(3))
    tokens = tokens_of(6)
    going = torch.ones(2, 6, dtype=torch.bool)
    h = torch.nn.functional.embedding(tokens, once.tensors["embedding"])
    for _ in range(3):
        f = h
        for block in (0, 1):
            f, _ = once._apply(block, block, f, KvCache(), going, ())
        h = h + damping * (f - h)
        if norm:
            h = h / torch.sqrt((h * h).mean(-1, keepdim=True) + TINY.rms_norm_eps) * once.tensors["final_norm"]
    h, _ = once._apply(2, 2, h, KvCache(), going, ())
    h = rms_norm(h, once.tensors["final_norm"], TINY.rms_norm_eps)
    assert close(looped.forward(tokens), h @ once.tensors["embedding"].T, 1e-5)


def test_a_last_loop_end_norm_is_the_final_norm():
    """Ouro and Nanbeige apply the final norm at every loop end, and not once more before the head."""
    checkpoint = random_model(TINY)
    normed = ReferenceModel.from_checkpoint(checkpoint, Schedule.repeat_all_over(3, 2, loop_end_norm=True))
    plain = ReferenceModel.from_checkpoint(checkpoint, Schedule.plain(3))
    assert close(normed.forward(tokens_of(), loops=1), plain.forward(tokens_of()), 1e-6)


def test_interleaved_pairing_is_a_permutation_of_half():
    checkpoint = random_model(TINY)
    half = ReferenceModel.from_checkpoint(checkpoint)
    order = np.arange(16).reshape(2, 8).T.reshape(-1)  # dimension i beside i + 8
    tensors = dict(checkpoint.tensors)
    for block in range(3):
        for name, heads in (("q_proj", 4), ("k_proj", 2)):
            key = f"blocks.{block}.{name}"
            tensors[key] = tensors[key].reshape(heads, 16, 64)[:, order].reshape(heads * 16, 64)
    config = TINY.model_copy(update={"rope_pairing": "interleaved"})
    other = ReferenceModel(config, checkpoint.schedule, tensors)
    assert close(half.forward(tokens_of()), other.forward(tokens_of()), 1e-5)


def test_full_attention_sees_all_tokens_of_a_call():
    checkpoint = random_model(TINY)
    full = ReferenceModel.from_checkpoint(checkpoint, full_attention_schedule())
    causal = ReferenceModel.from_checkpoint(checkpoint, Schedule.plain(3))
    tokens = tokens_of()
    other = tokens.clone()
    other[:, -1] = (other[:, -1] + 1) % TINY.vocab_size
    assert not close(full.forward(tokens)[:, 0], full.forward(other)[:, 0], 1e-5)
    assert close(causal.forward(tokens)[:, 0], causal.forward(other)[:, 0], 1e-6)
    # One token at a time nothing lies in the future, and a later call changes nothing of an earlier one.
    assert close(cached_decode(full, tokens), causal.forward(tokens), 1e-5)
    assert close(cached_decode(full, tokens, steps=[4, 5])[:, :4], full.forward(tokens[:, :4]), 1e-5)


def test_refusals():
    checkpoint = random_model(TINY)
    with pytest.raises(MobileloopError, match="cannot run yet"):
        ReferenceModel.from_checkpoint(checkpoint, Schedule(stages=(Stage(blocks=(0,), noise=True),)))
    with pytest.raises(MobileloopError, match="names block 3"):
        ReferenceModel.from_checkpoint(checkpoint, Schedule.plain(4))
    with pytest.raises(MobileloopError, match="loops 2 is outside 1-1"):
        ReferenceModel.from_checkpoint(checkpoint).forward(tokens_of(), loops=2)
