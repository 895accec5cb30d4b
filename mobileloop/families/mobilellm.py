"""MobileLLM, plain and layer-share (arXiv 2402.14905): Llama blocks, each applied twice in a row when shared.

The trap: the reference implementation gives both applications of a block one KV slot, so its cached logits are
wrong; the no-cache forward is the truth. Here each application has its own slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from mobileloop.families import llama
from mobileloop.families.family import Family, llama_tensor_name
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule

REPEATS = 2

# hidden, intermediate, blocks, heads, KV heads: arXiv 2402.14905, its repository's configs.
SHAPES = {
    "125m": (576, 1536, 30, 9, 3),
    "350m": (960, 2560, 32, 15, 5),
    "600m": (1152, 3072, 40, 18, 6),
    "1b": (1280, 3584, 54, 20, 5),
    "1.5b": (1600, 4352, 54, 25, 5),
}
LAYER_SHARE = ("125m", "350m")


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


def preset(size: str, layer_share: bool = False) -> tuple[ModelConfig, Schedule]:
    """A published shape, plain or with every block twice in a row."""
    hidden, inner, blocks, heads, kv_heads = SHAPES[size]
    config = ModelConfig(
        family="mobilellm",
        name=f"mobilellm-{size}" + ("-ls" if layer_share else ""),
        vocab_size=32000,
        hidden_size=hidden,
        intermediate_size=inner,
        num_blocks=blocks,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=64,
        random_weights=True,
    )
    return config, read_schedule({"layer_sharing": layer_share}, config)


PRESETS = {f"mobilellm-{size}": partial(preset, size) for size in SHAPES}
PRESETS |= {f"mobilellm-{size}-ls": partial(preset, size, True) for size in LAYER_SHARE}

FAMILY = Family("mobilellm", read_config, read_schedule, llama_tensor_name, llama.DEFAULTS, PRESETS, llama.rope_notes)
