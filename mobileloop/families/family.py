"""What a family is: how its checkpoints say a config, a schedule and the names of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule

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
        defaults: what a key of config.json means where it is missing, as the family's own code has it.
        presets: its named shapes, in the order that `--help` lists them; weights are random.
        notes: config.json -> what the user should know of how it was read.
    """

    model_type: str
    config: Callable[[Mapping[str, Any]], dict[str, Any]]
    schedule: Callable[[Mapping[str, Any], ModelConfig], Schedule]
    tensor_name: Callable[[str], str]
    defaults: Mapping[str, float] = field(default_factory=dict)
    presets: Mapping[str, Callable[[], tuple[ModelConfig, Schedule]]] = field(default_factory=dict)
    notes: Callable[[Mapping[str, Any]], list[str]] = lambda raw: []


def llama_tensor_name(name: str) -> str:
    """`blocks.3.q_proj` -> `model.layers.3.self_attn.q_proj.weight`."""
    outer = {"embedding": "model.embed_tokens.weight", "final_norm": "model.norm.weight", "head": "lm_head.weight"}
    if name in outer:
        return outer[name]
    _, block, short = name.split(".")
    return f"model.layers.{block}.{LLAMA_BLOCK_NAMES[short]}"
