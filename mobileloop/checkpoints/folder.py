"""A Hugging Face folder: config.json, safetensors (one file or shards), tokenizer files. No pickle is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, which safetensors then returns)
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.checkpoints.vocabulary import sentencepiece_tokenizer
from mobileloop.errors import MobileloopError, validated
from mobileloop.families.registry import family_of
from mobileloop.files import file_sha256, read_json, read_text
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.tokenizer import TokenizerSpec

_FLOATS = {"float32", "float16", "bfloat16", "float64"}


def refuse_unused(where: Path, names: set[str]) -> None:
    """Raise MobileloopError where a source holds weights that no block would use: the model would be another one."""
    if names:
        first = sorted(names)[0]
        raise MobileloopError(
            f"{where} holds the tensor {first} and {len(names) - 1} more that this model has no place for "
            "(biases, or a block of another kind); it is not a model that mobileloop can run."
        )


def load_folder(folder: Path) -> Checkpoint:
    """Load a checkpoint folder.

    Raises:
        MobileloopError: naming the file and the way out.
    """
    if not (folder / "config.json").is_file():
        raise MobileloopError(f"{folder} has no config.json, so it is not a checkpoint folder; check the path.")
    raw = read_json(folder / "config.json")
    family = family_of(raw.get("model_type"), str(folder / "config.json"))
    shards = _shards(folder)
    stored = _read_shards(shards)
    fields = {**family.config(raw), "name": folder.resolve().name}
    notes = []
    if not fields["tie_embeddings"] and family.tensor_name("head") not in stored:
        fields["tie_embeddings"] = True
        notes.append("the folder holds no head, so the embedding serves as the head")
    config = validated(ModelConfig, fields, str(folder / "config.json"))
    tensors: dict[str, NDArray[np.float32]] = {}
    for name in config.tensor_shapes():
        key = family.tensor_name(name)
        if key not in stored:
            raise MobileloopError(f"{folder} lacks the tensor {key}; the download may be incomplete.")
        tensors[name] = stored[key]
    used = {family.tensor_name(name) for name in config.tensor_shapes()}
    # A tied head is often stored a second time, and old files hold the rotary frequencies.
    extra = {family.tensor_name("head")} if config.tie_embeddings else set()
    refuse_unused(
        folder, {key for key in stored if key not in used | extra and not key.endswith("rotary_emb.inv_freq")}
    )
    digest = hashlib.sha256("".join(file_sha256(path) for path in shards).encode()).hexdigest()
    return Checkpoint(
        config=config,
        schedule=family.schedule(raw, config),
        tensors=tensors,
        tokenizer=_tokenizer(folder, raw),
        source=str(folder),
        sha256=file_sha256(shards[0]) if len(shards) == 1 else digest,
        notes=tuple(notes),
    ).check_shapes()


def _shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise MobileloopError(f"{index} has no weight_map, so the shards are unknown; download it again.")
        names = sorted({str(value) for value in weight_map.values()})
        for name in names:
            if Path(name).name != name:
                raise MobileloopError(f"{index} names the shard '{name}' outside its folder, which is not followed.")
            if not (folder / name).is_file():
                raise MobileloopError(f"{folder} lacks the shard {name}; the download may be incomplete.")
        return [folder / name for name in names]
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickles = sorted(path.name for path in folder.glob("*.bin")) + sorted(path.name for path in folder.glob("*.pt*"))
    if pickles:
        raise MobileloopError(
            f"{folder} holds only pickled weights ({pickles[0]}), which can run code when opened; convert them once "
            "with safetensors' own convert tool, or take a revision that has model.safetensors."
        )
    raise MobileloopError(f"{folder} holds no safetensors file; the download may be incomplete.")


def _read_shards(shards: list[Path]) -> dict[str, NDArray[np.float32]]:
    tensors: dict[str, NDArray[np.float32]] = {}
    for path in shards:
        try:
            with safe_open(str(path), framework="np") as stored:
                for name in stored.keys():  # noqa: SIM118  (safe_open is no mapping)
                    tensor = stored.get_tensor(name)
                    if str(tensor.dtype) in _FLOATS:
                        tensors[name] = tensor.astype(np.float32)
        except (SafetensorError, OSError, ValueError) as error:
            raise MobileloopError(f"{path} is damaged or cut short ({error}); download it again.") from None
    return tensors


def _tokenizer(folder: Path, raw: Mapping[str, Any]) -> TokenizerSpec | None:
    settings_path = folder / "tokenizer_config.json"
    settings = read_json(settings_path) if settings_path.is_file() else {}
    generation_path = folder / "generation_config.json"
    generation = read_json(generation_path) if generation_path.is_file() else {}
    template = settings.get("chat_template")
    if (folder / "chat_template.jinja").is_file():
        template = read_text(folder / "chat_template.jinja")
    extra = {
        "chat_template": template if isinstance(template, str) else None,
        "bos_token": _token_text(settings.get("bos_token")),
        "eos_token": _token_text(settings.get("eos_token")),
        "bos_id": raw.get("bos_token_id"),
        "eos_ids": _ids(generation.get("eos_token_id", raw.get("eos_token_id"))),
    }
    if (folder / "tokenizer.json").is_file():
        text = read_text(folder / "tokenizer.json")
        return validated(TokenizerSpec, {"json_text": text, **extra}, f"the tokenizer of {folder}")
    if (folder / "tokenizer.model").is_file():
        text = sentencepiece_tokenizer(folder / "tokenizer.model")
        extra["add_bos"] = bool(settings.get("add_bos_token", True))
        return validated(TokenizerSpec, {"json_text": text, **extra}, f"the tokenizer of {folder}")
    return None


def _token_text(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _ids(value: object) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,)
    return tuple(v for v in value if isinstance(v, int)) if isinstance(value, list) else ()
