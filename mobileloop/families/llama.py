"""Llama, and what is spelled like it (SmolLM2): every block once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mobileloop.errors import MobileloopError
from mobileloop.families.family import Family, llama_tensor_name
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule


def read_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a Llama-like model -> ModelConfig fields.

    Raises:
        MobileloopError: for a feature whose arithmetic is not built (biases, scaled rotary embedding, another
            activation), or a missing field.
    """
    if raw.get("hidden_act", "silu") != "silu":
        raise MobileloopError(f"the config asks for the activation '{raw['hidden_act']}', but only silu is supported.")
    for bias in ("attention_bias", "mlp_bias"):
        if raw.get(bias):
            raise MobileloopError(f"the config sets {bias}, and blocks with biases are not supported.")
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise MobileloopError(f"the config's rope_scaling is {rope!r}, but an object was expected; correct the config.")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise MobileloopError(f"the config asks for '{kind}' scaling of the rotary embedding, which is not supported.")
    missing = [key for key in _REQUIRED if key not in raw]
    if missing:
        raise MobileloopError(f"the config lacks {missing[0]}; the folder's config.json may be damaged.")
    heads, hidden = raw["num_attention_heads"], raw["hidden_size"]
    if not isinstance(heads, int) or not isinstance(hidden, int) or heads < 1:
        raise MobileloopError("the config's num_attention_heads and hidden_size must be whole numbers above 0.")
    if not raw.get("head_dim") and hidden % heads:
        raise MobileloopError(
            f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}; correct the config."
        )
    return {
        "family": raw.get("model_type", "llama"),
        "vocab_size": raw["vocab_size"],
        "hidden_size": hidden,
        "intermediate_size": raw["intermediate_size"],
        "num_blocks": raw["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": raw.get("num_key_value_heads") or heads,
        "head_dim": raw.get("head_dim") or hidden // heads,
        "rms_norm_eps": raw.get("rms_norm_eps", 1e-6),
        "rope_theta": raw.get("rope_theta") or rope.get("rope_theta") or 10000.0,
        "rope_pairing": "interleaved" if raw.get("rope_interleaved") else "half",
        "max_position": raw.get("max_position_embeddings", 2048),
        "tie_embeddings": bool(raw.get("tie_word_embeddings", False)),
    }


_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def read_schedule(raw: Mapping[str, Any], config: ModelConfig) -> Schedule:
    """Every block once."""
    return Schedule.plain(config.num_blocks)


def smollm2_135m() -> tuple[ModelConfig, Schedule]:
    """SmolLM2-135M (arXiv 2502.02737, and its published config.json)."""
    config = ModelConfig(
        family="llama",
        name="smollm2-135m",
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_blocks=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        rope_theta=100000.0,
        max_position=8192,
        random_weights=True,
    )
    return config, Schedule.plain(config.num_blocks)


FAMILY = Family("llama", read_config, read_schedule, llama_tensor_name, {"smollm2-135m": smollm2_135m})
