"""A Hugging Face folder: config.json, safetensors (one file or shards), tokenizer files. No pickle is opened.

Which file says what, and which counts where several speak of one thing, is in docs/checkpoints.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobileloop.checkpoints import known_keys
from mobileloop.checkpoints.account import Account
from mobileloop.checkpoints.checkpoint import Checkpoint, weights_sha256
from mobileloop.checkpoints.folder_tokenizer import folder_tokenizer
from mobileloop.checkpoints.weights import StoredTensors
from mobileloop.errors import MobileloopError, validated
from mobileloop.families.family import Family
from mobileloop.families.registry import family_of
from mobileloop.files import read_json
from mobileloop.spec.config import ModelConfig

# Buffers of old files: position numbers, causal masks and rotary frequencies, which the config says.
_BUFFERS = ("rotary_emb.inv_freq", "position_ids", "attn.bias", "attn.masked_bias", "self_attn.rotary_emb.cos_cached",
            "self_attn.rotary_emb.sin_cached")  # fmt: skip


def load_folder(folder: Path, name: str | None = None, source: str | None = None) -> Checkpoint:
    """Load a checkpoint folder.

    Args:
        folder: holds config.json and the weights.
        name: the model's name; the folder's own by default.
        source: what the user named, for messages and the artifact's metadata; the folder by default.

    Raises:
        MobileloopError: naming the file and the way out.
    """
    _check_kind(folder)
    raw = Account(str(folder / "config.json"), read_json(folder / "config.json"))
    stored = StoredTensors(folder)
    stored.check_unquantized(raw)
    family = family_of(raw.get("model_type"), raw.where)
    fields = {**family.config(raw), "name": name or folder.resolve().name}
    assumed = family.notes(raw) + [
        f"config.json lacks {key}: {value:g} is taken, as the family's own code does"
        for key, value in family.defaults.items()
        if raw.get(key) is None
    ]
    stored.name_as(family.tensor_name("final_norm"))
    fields["tie_embeddings"], notes = _tied(family, stored, fields["tie_embeddings"])
    config = validated(ModelConfig, fields, raw.where)
    keys = {ours: family.tensor_name(ours) for ours in config.tensor_shapes()}
    if config.tie_embeddings and keys["embedding"] not in stored and family.tensor_name("head") in stored:
        keys["embedding"] = family.tensor_name("head")  # of two tied tensors a file may hold either
    tensors = {ours: stored.read(key) for ours, key in keys.items()}
    # A tied head is often stored a second time.
    used = {*keys.values(), family.tensor_name("head")}
    notes += [*stored.notes, *stored.settle(used, lambda key: key.endswith(_BUFFERS))]
    notes += _rotary_note(stored, config)
    schedule = family.schedule(raw, config)
    tokenizer, said = folder_tokenizer(folder, raw, config.vocab_size)
    return Checkpoint(
        config=config,
        schedule=schedule,
        tensors=tensors,
        tokenizer=tokenizer,
        source=source or str(folder),
        sha256=weights_sha256(stored.files),
        notes=(*assumed, *notes, *raw.settle(known_keys.CONFIG), *said),
    ).check_shapes()


def _check_kind(folder: Path) -> None:
    """Raise MobileloopError where the folder is none that holds one whole model."""
    whole = (folder / "config.json").is_file()
    if (folder / "adapter_config.json").is_file():
        rest = "lies beside the model and would change its weights" if whole else "is no model of its own"
        raise MobileloopError(
            f"{folder} holds an adapter (adapter_config.json), which {rest}; merge it into its model first, with "
            "merge_and_unload of peft, or remove the adapter's files."
        )
    if (folder / "model_index.json").is_file() and not whole:
        raise MobileloopError(f"{folder} is a diffusion pipeline (model_index.json), not a language model.")
    if (folder / "params.json").is_file() and not whole:
        raise MobileloopError(
            f"{folder} is in its vendor's own format (params.json); take the model's Hugging Face folder."
        )
    if not whole:
        raise MobileloopError(f"{folder} has no config.json, so it is not a checkpoint folder; check the path.")


def _tied(family: Family, stored: StoredTensors, tied: bool) -> tuple[bool, list[str]]:
    """Whether the embedding serves as the head: by the config, unless the stored head says otherwise."""
    head, embedding = family.tensor_name("head"), family.tensor_name("embedding")
    if head not in stored:
        return True, [] if tied else ["the folder holds no head, so the embedding serves as the head"]
    if not tied:
        return False, []
    if embedding not in stored:
        return True, []
    one, other = stored.read(head), stored.read(embedding)
    if one.shape == other.shape and np.array_equal(one, other):
        return True, []
    return False, ["the config ties head and embedding, but the stored head is another; the stored head is kept"]


def _rotary_note(stored: StoredTensors, config: ModelConfig) -> list[str]:
    """A note where stored rotary frequencies are not those of the config."""
    own = config.rope_theta ** (-np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim)
    for name, dtype in stored.dtypes.items():
        if name.endswith("inv_freq") and dtype in ("F32", "F16", "BF16", "F64"):
            held: NDArray[Any] = stored.read(name).ravel()
            if held.shape != own.shape or not np.allclose(held, own, rtol=1e-2):
                return [f"{name} differs from the rotary base of the config, which counts"]
    return []
