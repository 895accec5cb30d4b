"""Named model shapes; weights are random unless a checkpoint is given."""

from __future__ import annotations

from mobileloop.config import ModelConfig
from mobileloop.errors import MobileloopError
from mobileloop.schedule import Schedule

# hidden, intermediate, blocks, heads, KV heads: MobileLLM (arXiv 2402.14905), its repository's configs.
_MOBILELLM = {
    "125m": (576, 1536, 30, 9, 3),
    "350m": (960, 2560, 32, 15, 5),
    "600m": (1152, 3072, 40, 18, 6),
    "1b": (1280, 3584, 54, 20, 5),
    "1.5b": (1600, 4352, 54, 25, 5),
}


def _mobilellm(size: str) -> ModelConfig:
    hidden, inner, blocks, heads, kv_heads = _MOBILELLM[size]
    return ModelConfig(
        family="mobilellm",
        name=f"mobilellm-{size}",
        vocab_size=32000,
        hidden_size=hidden,
        intermediate_size=inner,
        num_blocks=blocks,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=64,
        random_weights=True,
    )


def _smollm2_135m() -> ModelConfig:
    return _mobilellm("125m").model_copy(
        update={
            "family": "llama",
            "name": "smollm2-135m",
            "vocab_size": 49152,
            "rope_theta": 100000.0,
            "max_position": 8192,
        }
    )


def preset_names() -> list[str]:
    """Every preset, in the order `--help` lists them."""
    plain = ["smollm2-135m", *(f"mobilellm-{size}" for size in _MOBILELLM)]
    return [*plain, "mobilellm-125m-ls", "mobilellm-350m-ls"]


def preset(name: str) -> tuple[ModelConfig, Schedule]:
    """The config and schedule of a preset.

    Raises:
        MobileloopError: for an unknown name, listing the known ones.
    """
    if name not in preset_names():
        raise MobileloopError(f"the preset '{name}' is not known; choose one of {', '.join(preset_names())}.")
    if name == "smollm2-135m":
        config = _smollm2_135m()
        return config, Schedule.plain(config.num_blocks)
    shared = name.endswith("-ls")
    config = _mobilellm(name.removeprefix("mobilellm-").removesuffix("-ls")).model_copy(update={"name": name})
    schedule = Schedule.immediate(config.num_blocks, 2) if shared else Schedule.plain(config.num_blocks)
    return config, schedule
