"""A GGUF file: its tensors (`ggml.py` has their types) and its tokenizer.

GGUF's llama files hold the query and key rows in an order that suits interleaved rotary pairs; they are put
back into the half-split order of the checkpoint, a permutation of whole rows that leaves every block as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.checkpoints.folder import refuse_unused
from mobileloop.checkpoints.ggml import Tensor, read_tensor, repacked_notes
from mobileloop.checkpoints.vocabulary import byte_level_tokenizer, scored_tokenizer
from mobileloop.errors import MobileloopError, validated
from mobileloop.files import file_sha256
from mobileloop.quant.schemes import QuantTensor
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule
from mobileloop.spec.tokenizer import TokenizerSpec

_BLOCK_NAMES = {
    "input_layernorm": "attn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
_OUTER_NAMES = {"embedding": "token_embd.weight", "head": "output.weight", "final_norm": "output_norm.weight"}


def load_gguf(path: Path) -> Checkpoint:
    """Load a GGUF file of the llama architecture.

    Raises:
        MobileloopError: where the file is damaged, cut short, of another architecture or of an unsupported type.
    """
    with damage_named(path, "the header or a tensor"):
        return _load(path)


@contextmanager
def damage_named(path: Path, part: str) -> Iterator[None]:
    """On a damaged file the libraries raise whatever they stumble over: turn that into a sentence."""
    try:
        yield
    except MobileloopError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MobileloopError(f"{part} of {path} is damaged ({reason}); download it again.") from None


def _load(path: Path) -> Checkpoint:
    reader = _open(path)
    fields = {name: field.contents for name, field in reader.fields.items()}

    def value(key: str, default: Any = None) -> Any:
        return fields[key]() if key in fields else default

    architecture = value("general.architecture")
    if architecture != "llama":
        raise MobileloopError(f"{path} holds the architecture '{architecture}', but only llama is supported in GGUF.")
    if value("llama.rope.scaling.type", "none") not in ("none", None):
        raise MobileloopError(f"{path} asks for scaling of the rotary embedding, which is not supported.")
    stored = {tensor.name: tensor for tensor in reader.tensors}
    if "rope_freqs.weight" in stored:
        raise MobileloopError(f"{path} asks for scaling of the rotary embedding, which is not supported.")
    config = _config(path, value, stored)
    tensors: dict[str, Tensor] = {}
    for name in config.tensor_shapes():
        key = _stored_name(name)
        if key not in stored:
            raise MobileloopError(f"{path} lacks the tensor {key}; the download may be incomplete.")
        tensor = read_tensor(path, stored[key])
        if name.endswith(".q_proj"):
            tensor = _half_split(tensor, config.num_heads)
        elif name.endswith(".k_proj"):
            tensor = _half_split(tensor, config.num_kv_heads)
        tensors[name] = tensor
    unused = set(stored) - {_stored_name(name) for name in config.tensor_shapes()}
    refuse_unused(path, unused)
    used = [stored[_stored_name(name)] for name in config.tensor_shapes()]
    with damage_named(path, "the tokenizer"):
        tokenizer = _tokenizer(path, value)
    return Checkpoint(
        config=config,
        schedule=Schedule.plain(config.num_blocks),
        tensors=tensors,
        tokenizer=tokenizer,
        source=str(path),
        sha256=file_sha256(path),
        notes=repacked_notes(used),
    ).check_shapes()


def _open(path: Path) -> Any:
    from gguf import GGUFReader

    try:
        return GGUFReader(str(path))
    except Exception as error:  # the reader raises whatever numpy raised on a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MobileloopError(f"{path} is damaged, cut short or not GGUF ({reason}); download it again.") from None


def _config(path: Path, value: Any, stored: dict[str, Any]) -> ModelConfig:
    heads = value("llama.attention.head_count")
    hidden = value("llama.embedding_length")
    if not isinstance(heads, int) or not isinstance(hidden, int) or heads < 1:
        raise MobileloopError(f"{path} lacks llama.attention.head_count or llama.embedding_length; it is damaged.")
    head_dim = value("llama.attention.key_length") or hidden // heads
    if value("llama.attention.key_length") is None and hidden % heads:
        raise MobileloopError(f"{path}: embedding_length {hidden} is not a multiple of head_count {heads}.")
    embedding = stored.get("token_embd.weight")
    if embedding is None:
        raise MobileloopError(f"{path} lacks the tensor token_embd.weight; the download may be incomplete.")
    rotary = value("llama.rope.dimension_count", head_dim)
    if rotary != head_dim:
        raise MobileloopError(
            f"{path} rotates {rotary} of {head_dim} dimensions, and partial rotation is not supported."
        )
    data = {
        "family": "llama",
        "name": path.stem,
        "vocab_size": int(embedding.shape[1]),
        "hidden_size": hidden,
        "intermediate_size": value("llama.feed_forward_length"),
        "num_blocks": value("llama.block_count"),
        "num_heads": heads,
        "num_kv_heads": value("llama.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": _shortest(value("llama.attention.layer_norm_rms_epsilon", 1e-5)),
        "rope_theta": value("llama.rope.freq_base", 10000.0),
        "max_position": value("llama.context_length", 2048),
        "tie_embeddings": "output.weight" not in stored,
    }
    return validated(ModelConfig, data, str(path))


def _shortest(value: float) -> float:
    """GGUF holds float32: give back the decimal that was meant (1e-05 rather than 9.999999747378752e-06)."""
    return float(str(np.float32(value)))


def _stored_name(name: str) -> str:
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    _, block, short = name.split(".")
    return f"blk.{block}.{_BLOCK_NAMES[short]}.weight"


def _half_split(tensor: Tensor, heads: int) -> Tensor:
    """Undo GGUF's row order: within a head, stored row 2i + p is row p * head_dim / 2 + i."""
    rows = tensor.shape[0]
    if rows % (2 * heads):
        raise MobileloopError(f"a projection of {rows} rows does not divide into {heads} heads; the file is damaged.")
    order = np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)
    if not isinstance(tensor, QuantTensor):
        return np.ascontiguousarray(tensor[order])
    return QuantTensor(
        tensor.scheme,
        np.ascontiguousarray(tensor.codes[order]),
        None if tensor.scale is None else np.ascontiguousarray(tensor.scale[order]),
        None if tensor.minimum is None else np.ascontiguousarray(tensor.minimum[order]),
    )


def _tokenizer(path: Path, value: Any) -> TokenizerSpec | None:
    model = value("tokenizer.ggml.model")
    if model is None:
        return None
    tokens = value("tokenizer.ggml.tokens", [])
    types = value("tokenizer.ggml.token_type", [1] * len(tokens))
    if model == "gpt2":
        merges = value("tokenizer.ggml.merges", [])
        text = byte_level_tokenizer(tokens, merges, types, value("tokenizer.ggml.pre", "default"))
    elif model == "llama":
        unknown = tokens[value("tokenizer.ggml.unknown_token_id", 0)]
        add_space = bool(value("tokenizer.ggml.add_space_prefix", True))
        text = scored_tokenizer(tokens, value("tokenizer.ggml.scores", []), types, unknown, add_space)
    else:
        raise MobileloopError(f"{path} has a tokenizer of kind '{model}', but only gpt2 and llama are supported.")
    bos, eos = value("tokenizer.ggml.bos_token_id"), value("tokenizer.ggml.eos_token_id")
    ends = {end for end in (eos, value("tokenizer.ggml.eot_token_id")) if end is not None}
    data = {
        "json_text": text,
        "chat_template": value("tokenizer.chat_template"),
        "bos_token": tokens[bos] if bos is not None and bos < len(tokens) else None,
        "eos_token": tokens[eos] if eos is not None and eos < len(tokens) else None,
        "bos_id": bos,
        "eos_ids": tuple(sorted(ends)),
        "add_bos": bool(value("tokenizer.ggml.add_bos_token", model == "llama")),
    }
    return validated(TokenizerSpec, data, f"the tokenizer of {path}")
