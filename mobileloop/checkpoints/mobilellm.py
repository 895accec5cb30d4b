"""MobileLLM, plain and layer-share (arXiv 2402.14905): Llama blocks, each applied twice in a row when shared.

The trap: the reference implementation gives both applications of a block one KV slot, so its cached logits are
wrong; the no-cache forward is the truth. Here each application has its own slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mobileloop.checkpoints import llama
from mobileloop.checkpoints.families import Family, llama_tensor_name
from mobileloop.config import ModelConfig
from mobileloop.schedule import Schedule

REPEATS = 2


def read_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`share_embedding` means a tied head even where `tie_word_embeddings` is false (its published configs)."""
    fields = llama.read_config(raw)
    fields["tie_embeddings"] = bool(raw.get("share_embedding") or raw.get("tie_word_embeddings"))
    return fields


def read_schedule(raw: Mapping[str, Any], config: ModelConfig) -> Schedule:
    """Every block twice in a row where the config says `layer_sharing`."""
    if raw.get("layer_sharing"):
        return Schedule.immediate(config.num_blocks, REPEATS)
    return Schedule.plain(config.num_blocks)


FAMILY = Family("mobilellm", read_config, read_schedule, llama_tensor_name)
