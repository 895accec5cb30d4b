"""The registry of families: which file reads which `model_type`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mobileloop.config import ModelConfig
from mobileloop.errors import MobileloopError
from mobileloop.schedule import Schedule

# Our short names of a block's tensors -> the Hugging Face Llama names.
LLAMA_BLOCK_NAMES = {
    "input_layernorm": "input_layernorm.weight",
    "q_proj": "self_attn.q_proj.weight",
    "k_proj": "self_attn.k_proj.weight",
    "v_proj": "self_attn.v_proj.weight",
    "o_proj": "self_attn.o_proj.weight",
    "post_attention_layernorm": "post_attention_layernorm.weight",
    "gate_proj": "mlp.gate_proj.weight",
    "up_proj": "mlp.up_proj.weight",
    "down_proj": "mlp.down_proj.weight",
}


@dataclass(frozen=True)
class Family:
    """How one family's checkpoint is read.

    Attributes:
        model_type: the `model_type` of its config.json.
        config: config.json -> ModelConfig fields.
        schedule: config.json and ModelConfig -> the family's own schedule.
        tensor_name: our tensor name -> the checkpoint's.
    """

    model_type: str
    config: Callable[[Mapping[str, Any]], dict[str, Any]]
    schedule: Callable[[Mapping[str, Any], ModelConfig], Schedule]
    tensor_name: Callable[[str], str]


def llama_tensor_name(name: str) -> str:
    """`blocks.3.q_proj` -> `model.layers.3.self_attn.q_proj.weight`."""
    outer = {"embedding": "model.embed_tokens.weight", "final_norm": "model.norm.weight", "head": "lm_head.weight"}
    if name in outer:
        return outer[name]
    _, block, short = name.split(".")
    return f"model.layers.{block}.{LLAMA_BLOCK_NAMES[short]}"


def family_of(model_type: object, where: str) -> Family:
    """The family that reads `model_type`.

    Raises:
        MobileloopError: for a family this version does not read.
    """
    from mobileloop.checkpoints import llama, mobilellm

    known = {family.model_type: family for family in (llama.FAMILY, mobilellm.FAMILY)}
    if not isinstance(model_type, str) or model_type not in known:
        raise MobileloopError(
            f"{where} has model_type '{model_type}', which is not supported; supported are {', '.join(sorted(known))}."
        )
    return known[model_type]
