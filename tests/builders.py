"""Small files and models that several tests build: checkpoint folders, GGUF files, artifacts, golden data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import pre_tokenizers

from mobileloop.artifact import ArtifactInfo
from mobileloop.checkpoints.random import random_model
from mobileloop.checkpoints.sentencepiece_model import CONTROL
from mobileloop.checkpoints.vocabulary import byte_level_tokenizer
from mobileloop.families.family import llama_tensor_name
from mobileloop.files import written_whole
from mobileloop.packed import PackedModel
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule, Stage
from mobileloop_export.formats import exporter

DATA = Path(__file__).parent / "data"

# A vocabulary and KV rows that leave the last group of 8 rows partly empty.
TINY = ModelConfig(
    name="tiny",
    vocab_size=67,
    hidden_size=64,
    intermediate_size=96,
    num_blocks=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    max_position=512,
)


def mixed_schedule() -> Schedule:
    """Two looped stages with bounds and defaults of their own, one damped, one with a norm at every loop end."""
    return Schedule(
        name="mixed",
        stages=(
            Stage(blocks=(0,), loops=2, max_loops=2),
            Stage(blocks=(1, 0), loops=1, max_loops=4, damping=0.5),
            Stage(blocks=(2,), loops=1, max_loops=3, loop_end_norm=True),
        ),
    )


def full_attention_schedule() -> Schedule:
    """Every block once under full attention, the last one causal."""
    return Schedule(name="full", stages=(Stage(blocks=(0, 1), causal=False), Stage(blocks=(2,))))


def schedules(num_blocks: int = 3) -> dict[str, Schedule]:
    """One of every shape that the runtimes execute."""
    return {
        "plain": Schedule.plain(num_blocks),
        "immediate": Schedule.immediate(num_blocks, 2),
        "all": Schedule.repeat_all_over(num_blocks, 3),
        "all-normed": Schedule.repeat_all_over(num_blocks, 2, loop_end_norm=True),
        "damped": Schedule.damped_range(num_blocks, 1, 1, 3, 1 / 3),
        "mixed": mixed_schedule(),
    }


def packed_model(config=TINY, schedule=None, quantization="none", seed=0):
    """(checkpoint, packed) of random weights."""
    checkpoint = random_model(config, schedule, seed)
    return checkpoint, PackedModel.from_checkpoint(checkpoint, quantization)


def write_engine(path, checkpoint, packed, context=64, kv_bits=32):
    """Export to the engine's format; returns `path`."""
    info = ArtifactInfo.describe(checkpoint, packed, context, kv_bits)
    with written_whole(Path(path)) as temporary:
        exporter("engine")(packed, info, temporary, lambda step, share: None)
    return Path(path)


def hf_config(config=TINY, **changes) -> dict:
    """config.json of a Llama of this shape."""
    raw = {
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_blocks,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_position,
        "tie_word_embeddings": config.tie_embeddings,
    }
    raw.update(changes)
    return {key: value for key, value in raw.items() if value is not None}


def write_folder(folder, checkpoint, dtype=np.float32, shards=1, **changes):
    """A checkpoint as a Hugging Face folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf_config(checkpoint.config, **changes)))
    tensors = {llama_tensor_name(name): np.asarray(t).astype(dtype) for name, t in checkpoint.tensors.items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    weight_map = {name: names[i % shards] for i, name in enumerate(tensors)}
    for shard in names:
        save_file({name: t for name, t in tensors.items() if weight_map[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def golden(name: str) -> dict[str, np.ndarray]:
    """The golden arrays of one reference."""
    return load_file(DATA / name / "io.safetensors")


def kl_divergence(truth, other) -> float:
    """Largest KL(softmax(truth) || softmax(other)) over the rows, in nats."""

    def log_softmax(x):
        x = np.asarray(x, dtype=np.float64)
        x = x - x.max(axis=-1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))

    p, q = log_softmax(truth), log_softmax(other)
    return float((np.exp(p) * (p - q)).sum(axis=-1).max())


def add_tokenizer(folder) -> Path:
    """Give a checkpoint folder a byte-level tokenizer without merges: 259 tokens, the first three special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "</s>", "<pad>", *alphabet]
    text = byte_level_tokenizer(tokens, [], [CONTROL] * 3 + [1] * len(alphabet), "gpt-2")
    (Path(folder) / "tokenizer.json").write_text(text, encoding="utf-8")
    return Path(folder)


def same_bits(a, b) -> bool:
    """Whether two float32 arrays are equal bit for bit."""
    return np.array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32))
