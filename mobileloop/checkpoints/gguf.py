"""A GGUF file, whole or in parts: its metadata, names and tensors; tensors of our own types are kept bit for bit.

GGUF's llama files hold the query and key rows in an order that suits interleaved rotary pairs; they are put
back into the half-split order of the checkpoint, a permutation of whole rows that leaves every block as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mobileloop.checkpoints import known_keys
from mobileloop.checkpoints.account import Account
from mobileloop.checkpoints.checkpoint import Checkpoint, weights_sha256
from mobileloop.checkpoints.ggml import Tensor, read_tensor, repacked_notes
from mobileloop.checkpoints.gguf_layout import check_layout, check_sizes
from mobileloop.checkpoints.gguf_tokenizer import gguf_tokenizer
from mobileloop.checkpoints.weights import refuse_unused
from mobileloop.errors import MobileloopError, library_errors, printable, validated
from mobileloop.files import check_content
from mobileloop.quant.schemes import QuantTensor
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule

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


_PART = re.compile(r"^(?P<stem>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})$")
_VERSIONS = (2, 3)
_DAMAGED = "it is damaged, cut short or not GGUF; download it again"


class _Fields(Mapping[str, Any]):
    """The metadata of a file, decoded when asked for."""

    def __init__(self, fields: Mapping[str, Any], where: Path) -> None:
        self._fields, self._where = fields, where

    def __getitem__(self, key: str) -> Any:
        field = self._fields[key]
        with library_errors(f"the key {printable(key)} of {self._where}", _DAMAGED):
            return field.contents()

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


def load_gguf(path: Path) -> Checkpoint:
    """Load a GGUF file of the llama architecture; any part of a file in parts stands for all of them.

    Raises:
        MobileloopError: where the file is damaged, cut short, of another architecture or of an unsupported type, or
            says what would change the arithmetic.
    """
    files = _parts(path)
    readers = [open_gguf(file) for file in files]
    account = Account(str(files[0]), _Fields(readers[0].fields, files[0]))
    _check_parts(files, readers, account)
    stored = {tensor.name: tensor for reader in readers for tensor in reader.tensors}
    _check_kind(account)
    stem = _PART.match(files[0].stem)
    config, notes = _config(account, stored, stem["stem"] if stem and len(files) > 1 else files[0].stem)
    used = {name: _stored_name(name) for name in config.tensor_shapes()}
    refuse_unused(path, set(stored) - set(used.values()) - set(notes))
    tensors = {name: _tensor(path, name, stored.get(key), config) for name, key in used.items()}
    tokenizer, said = gguf_tokenizer(account, config.vocab_size)
    return Checkpoint(
        config=config,
        schedule=Schedule.plain(config.num_blocks),
        tensors=tensors,
        tokenizer=tokenizer,
        source=str(path),
        sha256=weights_sha256(files),
        notes=(
            *repacked_notes(stored[key] for key in used.values()),
            *notes.values(),
            *said,
            *_advice(account),
            *account.settle(known_keys.gguf_rules("llama")),
        ),
    ).check_shapes()


def _advice(account: Account) -> list[str]:
    """A note of the sampling that the file recommends."""
    keys = [key for key in account if key.startswith("general.sampling.")]
    told = ", ".join(
        f"{printable(key.removeprefix('general.sampling.'))} {printable(str(account[key]))}" for key in keys
    )
    return [f"the file recommends {told}; `mobileloop run` samples as its options say"] if keys else []


def _tensor(path: Path, name: str, stored: Any, config: ModelConfig) -> Tensor:
    """One tensor under our name, its rows in our order."""
    if stored is None:
        raise MobileloopError(f"{path} lacks the tensor {_stored_name(name)}; the download may be incomplete.")
    tensor = read_tensor(path, stored)
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(name.rpartition(".")[2])
    with library_errors(f"the tensor {_stored_name(name)} of {path}", _DAMAGED):
        return tensor if heads is None else _half_split(tensor, heads)


def _parts(path: Path) -> list[Path]:
    """The file, or all parts of a file that lies in parts, as its name says."""
    named = _PART.match(path.stem)
    if path.suffix != ".gguf" or not named:
        return [path]
    count = int(named["count"])
    files = [path.with_name(f"{named['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        listed = ", ".join(printable(name) for name in missing[:3])
        raise MobileloopError(
            f"{path} is a part of a file in {count} parts, and {len(missing)} of them are missing ({listed}); put all "
            "parts into one folder."
        )
    return files


def open_gguf(path: Path) -> Any:
    """A GGUFReader of a file whose sizes and places were all checked.

    Raises:
        MobileloopError: where the file is damaged, cut short, of another version or byte order, or no GGUF at all.
    """
    check_content(path)
    with path.open("rb") as stream:
        head = stream.read(8)
    version, swapped = (int.from_bytes(head[4:], order) for order in ("little", "big"))
    if head[:4] == b"GGUF" and swapped in _VERSIONS:
        raise MobileloopError(
            f"{path} is in the byte order of another kind of machine (little-endian was expected); take the usual file."
        )
    if head[:4] == b"GGUF" and version not in _VERSIONS:
        raise MobileloopError(f"{path} is of GGUF version {version}, and 2 and 3 are read; take another file of it.")
    check_sizes(path)
    with library_errors(str(path), _DAMAGED):
        from gguf import GGUFReader

        with np.errstate(over="ignore"):  # of a place beyond 64 bits, which check_layout refuses
            reader = GGUFReader(str(path))
    check_layout(path, reader)
    return reader


def _check_parts(files: list[Path], readers: list[Any], account: Account) -> None:
    """Raise MobileloopError where the parts do not make up one file."""
    count = account.get("split.count")
    if isinstance(count, int) and count > 1 and len(files) == 1:
        raise MobileloopError(
            f"{files[0]} is one of {count} parts, but its name does not say which; name the parts as "
            f"MODEL-00001-of-{count:05}.gguf."
        )
    for number, (file, reader) in enumerate(zip(files, readers, strict=True)):
        own = account if number == 0 else Account(str(file), _Fields(reader.fields, file))
        if own.get("split.no", number) != number or own.get("split.count", len(files)) not in (len(files), 0):
            raise MobileloopError(
                f"{file} says that it is part {own['split.no']} of {own.get('split.count')}, which its name does not; "
                "download it again."
            )
        if number:
            own.get("general.architecture")
            own.settle(known_keys.gguf_rules("llama"))
    names = [tensor.name for reader in readers for tensor in reader.tensors]
    if len(set(names)) != len(names):
        raise MobileloopError(f"{files[0]} and its other parts hold a tensor twice; download them again.")


def _check_kind(account: Account) -> None:
    architecture, kind = account.get("general.architecture"), account.get("general.type", "model")
    if kind != "model":
        raise MobileloopError(
            f"{account.where} holds no model but another kind ({printable(str(kind))}); give the model's own file."
        )
    if architecture != "llama":
        raise MobileloopError(
            f"{account.where} holds the architecture '{printable(str(architecture))}', but only llama is supported in "
            "GGUF."
        )


def _config(account: Account, stored: Mapping[str, Any], name: str) -> tuple[ModelConfig, dict[str, str]]:
    """The config that the metadata say, and notes under the names of tensors or keys they are about."""
    where = account.where

    def whole(key: str, default: int | None = None) -> int:
        value = account.get(f"llama.{key}", default)
        if value is None:
            raise MobileloopError(f"{where} lacks llama.{key}; it is damaged.")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise MobileloopError(
                f"{where} says llama.{key} {printable(str(value))}, but one whole number above 0 was expected; the "
                "file is damaged, or its blocks differ from each other."
            )
        return value

    heads, hidden = whole("attention.head_count"), whole("embedding_length")
    if account.get("llama.attention.key_length") is None and hidden % heads:
        raise MobileloopError(f"{where}: embedding_length {hidden} is not a multiple of head_count {heads}.")
    head_dim = whole("attention.key_length", hidden // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if whole(key, head_dim) != head_dim:
            raise MobileloopError(
                f"{where} says llama.{key} {whole(key)} where heads have {head_dim} dimensions; that is not supported "
                "(partial rotation, or values of another size)."
            )
    embedding = stored.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise MobileloopError(f"{where} lacks the tensor token_embd.weight; the download may be incomplete.")
    notes = _check_rotation(account, stored)
    if account.get("llama.vocab_size", embedding.shape[1]) != embedding.shape[1]:
        told = f"llama.vocab_size is {printable(str(account['llama.vocab_size']))}"
        notes["vocab_size"] = f"{told}, and the embedding has {embedding.shape[1]} rows, which count"
    assumed = {"context_length": 2048, "attention.layer_norm_rms_epsilon": 1e-5}
    for key, value in assumed.items():
        if f"llama.{key}" not in account:
            notes[key] = f"the file lacks llama.{key}: {value:g} is taken"
    data = {
        "family": "llama",
        "name": name,
        "vocab_size": int(embedding.shape[1]),
        "hidden_size": hidden,
        "intermediate_size": whole("feed_forward_length"),
        "num_blocks": whole("block_count"),
        "num_heads": heads,
        "num_kv_heads": whole("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": _shortest(account.get("llama.attention.layer_norm_rms_epsilon", 1e-5)),
        "rope_theta": account.get("llama.rope.freq_base", 10000.0),
        "max_position": whole("context_length", 2048),
        "tie_embeddings": "output.weight" not in stored,
    }
    return validated(ModelConfig, data, where), notes


def _check_rotation(account: Account, stored: Mapping[str, Any]) -> dict[str, str]:
    """Refuse a scaled rotary embedding in every spelling; notes of what says that there is none."""
    kind = account.get("llama.rope.scaling.type")
    factors = {key: account.get(f"llama.rope.{key}") for key in ("scaling.factor", "scale_linear")}
    asked = {key: value for key, value in factors.items() if value not in (None, 0, 1)}
    notes = {}
    if kind == "none":
        notes.update({key: f"llama.rope.{key} {value:g} is left out, since the scaling's type is none"
                      for key, value in asked.items()})  # fmt: skip
    elif asked or kind not in (None, "linear"):
        said = ", ".join(
            [f"type {printable(str(kind))}"] * (kind is not None) + [f"{k} {v:g}" for k, v in asked.items()]
        )
        raise MobileloopError(
            f"{account.where} asks for scaling of the rotary embedding (llama.rope: {said}), which is not supported."
        )
    frequencies = stored.get("rope_freqs.weight")
    if frequencies is not None:
        if not np.all(np.asarray(frequencies.data, dtype=np.float32) == 1):
            raise MobileloopError(
                f"{account.where} asks for scaling of the rotary embedding (rope_freqs.weight), which is not supported."
            )
        notes["rope_freqs.weight"] = "rope_freqs.weight is all ones and left out"
    return notes


def _shortest(value: object) -> object:
    """GGUF holds float32: give back the decimal that was meant (1e-05 rather than 9.999999747378752e-06)."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


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
