"""Llama, and what is spelled like it (SmolLM2): every block once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mobileloop.errors import MobileloopError, printable
from mobileloop.families.family import Family, llama_tensor_name
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule


def read_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a Llama-like model -> ModelConfig fields.

    Raises:
        MobileloopError: for a feature whose arithmetic is not built (biases, scaled rotary embedding, another
            activation), or a missing field.
    """
    if raw.get("hidden_act", "silu") not in ("silu", "swish"):  # two names of one function
        raise MobileloopError(f"the config asks for the activation '{raw['hidden_act']}', but only silu is supported.")
    for bias in ("attention_bias", "mlp_bias"):
        if raw.get(bias):
            raise MobileloopError(f"the config sets {bias}, and blocks with biases are not supported.")
    _check_architectures(raw.get("architectures"))
    if raw.get("model_type") == "llama":
        _check_own_code(raw)
    _check_window(raw)
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
        "rms_norm_eps": _given(raw, "rms_norm_eps"),
        "rope_theta": rope_theta(raw),
        "rope_pairing": "interleaved" if raw.get("rope_interleaved") else "half",
        "max_position": _given(raw, "max_position_embeddings"),
        "tie_embeddings": _flag(raw, "tie_word_embeddings"),
    }


def _flag(raw: Mapping[str, Any], key: str) -> bool:
    value = raw.get(key)
    if value is not None and value not in (True, False):
        raise MobileloopError(f"the config's {key} is {printable(repr(value))}, but true or false was expected.")
    return bool(value)


# What transformers' LlamaConfig takes where the key is missing.
DEFAULTS = {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048}


def _given(raw: Mapping[str, Any], key: str) -> Any:
    value = raw.get(key)
    return DEFAULTS[key] if value is None else value


def rope_theta(raw: Mapping[str, Any]) -> float:
    """The rotary base: of rope_scaling, else of rope_parameters; where that says none, the config's own rope_theta.

    So does transformers 5 (LlamaConfig), where rope_scaling is the older name of rope_parameters.

    Raises:
        MobileloopError: where a scaling other than by the factor 1 is asked for, in whichever spelling.
    """
    for key in _ROPE:
        _check_rope(key, raw.get(key) or {})
    said = _said_bases(raw)
    return next(iter(said.values()), 10000.0)


_ROPE = ("rope_scaling", "rope_parameters")


def _said_bases(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Where a rotary base stands -> what it is, the one that counts first."""
    scaling, parameters = (raw.get(key) or {} for key in _ROPE)
    said = {
        "rope_scaling": scaling.get("rope_theta"),
        "rope_parameters": parameters.get("rope_theta") if not scaling else None,
        "rope_theta": raw.get("rope_theta"),
        "rope_parameters (beside rope_scaling)": parameters.get("rope_theta") if scaling else None,
    }
    return {where: base for where, base in said.items() if base is not None}


def read_notes(raw: Mapping[str, Any]) -> list[str]:
    """What the user should know of how a config was read."""
    return [*rope_notes(raw), *_class_notes(raw)]


def _class_notes(raw: Mapping[str, Any]) -> list[str]:
    """A note where the class is another one than Llama's."""
    others = _other_classes(raw)
    return [f"config.json names the class {printable(others[0])}, which is read as LlamaForCausalLM"] if others else []


def rope_notes(raw: Mapping[str, Any]) -> list[str]:
    """A note where several rotary bases are said and differ."""
    said = _said_bases(raw)
    if len(set(map(str, said.values()))) < 2:
        return []
    first, *others = said.items()
    rest = " and ".join(f"{where} {base}" for where, base in others if base != first[1])
    return [f"config.json: the rotary base {first[1]} of {first[0]} counts, not {rest}"]


def _check_rope(key: str, rope: object) -> None:
    if not isinstance(rope, Mapping):
        raise MobileloopError(f"the config's {key} is {rope!r}, but an object was expected; correct the config.")
    kind = rope.get("rope_type") or rope.get("type") or ("linear" if "factor" in rope else "default")
    unscaled = kind == "default" or (kind in ("linear", "dynamic") and rope.get("factor") == 1)
    if not unscaled:
        raise MobileloopError(
            f"the config asks for '{kind}' scaling of the rotary embedding ({key}), which is not supported."
        )
    known = {"rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings"}
    for name, value in rope.items():
        if name not in known and value is not None and not (name == "partial_rotary_factor" and value == 1):
            raise MobileloopError(
                f"the config's {key} sets {name!r} to {value!r}, which changes the rotary embedding and is not "
                "supported."
            )


def _check_architectures(said: object) -> None:
    names = said if isinstance(said, list) else []
    if names and not any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        raise MobileloopError(
            f"the config's architectures are {', '.join(map(str, names))}, and only causal language models are "
            "supported; take the model with its language head."
        )


def _check_own_code(raw: Mapping[str, Any]) -> None:
    """Raise MobileloopError where the model's class is another one, in code that lies beside it."""
    own, others = raw.get("auto_map"), _other_classes(raw)
    if others and isinstance(own, Mapping) and "AutoModelForCausalLM" in own:
        raise MobileloopError(
            f"the config's class is {printable(others[0])}, in code of its own (auto_map), which is not run here; its "
            "arithmetic may be another than Llama's, so the model is not read."
        )


def _other_classes(raw: Mapping[str, Any]) -> list[str]:
    said = raw.get("architectures")
    return [str(name) for name in said if name != "LlamaForCausalLM"] if isinstance(said, list) else []


def _check_window(raw: Mapping[str, Any]) -> None:
    """Attention over a window changes nothing where the window holds every position, or is switched off."""
    window, positions = raw.get("sliding_window"), raw.get("max_position_embeddings") or 2048
    kinds = raw.get("layer_types")
    off = raw.get("use_sliding_window") is False
    windowed = isinstance(kinds, list) and any(kind != "full_attention" for kind in kinds)
    short = isinstance(window, (int, float)) and isinstance(positions, int) and 0 < window < positions
    if windowed or (short and not off and kinds is None):
        raise MobileloopError(
            f"the config asks for attention other than full (sliding_window {window}), which is not supported."
        )


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


FAMILY = Family(
    "llama", read_config, read_schedule, llama_tensor_name, DEFAULTS, {"smollm2-135m": smollm2_135m}, read_notes
)
