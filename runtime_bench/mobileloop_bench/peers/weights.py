"""Every contestant's files, made from one pure Q4_0 GGUF, so that all of them hold the very same weights.

llama.cpp reads the GGUF; our engine gets its 4-bit codes bit for bit, the embedding's too (`mobileloop export` would
keep the embedding in 8 bits, which is 14 MB more per token and no fair comparison); onnxruntime-genai and ExecuTorch
quantize by themselves, so they get the dequantized weights as floats.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobileloop.artifact import ArtifactInfo
from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.checkpoints.gguf import open_gguf
from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.errors import MobileloopError
from mobileloop.files import written_whole
from mobileloop.packed import PackedModel
from mobileloop.quant.schemes import QuantTensor
from mobileloop.spec.schedule import Schedule
from mobileloop_export.engine import write

MAX_LOOPS = 4
CONTEXT = 512
LOOPED = "nanbeige"  # llama.cpp's architecture of Llama blocks in a loop over all of them

_FOLDER_NAMES = {
    "embedding": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "o_proj": "self_attn.o_proj",
    "gate_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "down_proj": "mlp.down_proj",
}
_META_NAMES = {
    "embedding": "tok_embeddings.weight",
    "final_norm": "norm.weight",
    "head": "output.weight",
    "input_layernorm": "attention_norm",
    "q_proj": "attention.wq",
    "k_proj": "attention.wk",
    "v_proj": "attention.wv",
    "o_proj": "attention.wo",
    "post_attention_layernorm": "ffn_norm",
    "gate_proj": "feed_forward.w1",
    "up_proj": "feed_forward.w3",
    "down_proj": "feed_forward.w2",
}


def write_engine(gguf: Path, path: Path, schedule: str = f"immediate:{MAX_LOOPS}") -> None:
    """Our artifact of a Q4_0 GGUF, every matrix bit for bit; every block may be applied 1 to 4 times in a row.

    Args:
        gguf: the weights.
        path: of the artifact.
        schedule: another one, by its name.
    """

    checkpoint = load_checkpoint(str(gguf))
    _check_symmetric(checkpoint)
    order = Schedule.parse(schedule, checkpoint.config.num_blocks)
    packed = PackedModel(checkpoint.config, order, "int4-symmetric", dict(checkpoint.tensors))
    info = ArtifactInfo.describe(checkpoint, packed, CONTEXT, 16)
    with written_whole(path) as temporary:
        write(packed, info, temporary, lambda step, done: None)


def _check_symmetric(checkpoint: Checkpoint) -> None:
    for name, tensor in checkpoint.tensors.items():
        if len(tensor.shape) == 2 and (not isinstance(tensor, QuantTensor) or tensor.scheme != "int4-symmetric"):
            raise MobileloopError(
                f"{checkpoint.source} holds {name} in another type than Q4_0; make the file again with "
                "llama-quantize --pure, or delete it so that it is made again."
            )


@dataclass(frozen=True)
class Stored:
    """What a GGUF holds.

    Attributes:
        types: of its matrices.
        unique_bytes: weight bytes that one token reads; of an embedding that is not the head too, that is one row.
        block_bytes: of them, those of the blocks.
    """

    types: frozenset[str]
    unique_bytes: int
    block_bytes: int

    def executed_bytes(self, times: int) -> int:
        """Weight bytes that one token touches where every block is applied `times` times."""
        return self.unique_bytes + (times - 1) * self.block_bytes


def stored(gguf: Path) -> Stored:
    """What a GGUF holds.

    Raises:
        MobileloopError: where the file is damaged.
    """
    tensors = open_gguf(gguf).tensors
    types = frozenset(tensor.tensor_type.name for tensor in tensors if len(tensor.shape) > 1)
    untied = any(tensor.name == "output.weight" for tensor in tensors)
    size = blocks = 0
    for tensor in tensors:
        rows = int(tensor.shape[-1]) if untied and tensor.name == "token_embd.weight" else 1
        size += int(tensor.n_bytes) // rows
        blocks += int(tensor.n_bytes) if tensor.name.startswith("blk.") else 0
    return Stored(types, size, blocks)


def write_unrolled(gguf: Path, path: Path, times: int) -> None:
    """The GGUF with every block written `times` in a row: for a runtime that cannot apply a block again at once."""
    _rewrite(gguf, path, times=times)


def write_looped(gguf: Path, path: Path, loops: int, loop_end_norm: bool) -> None:
    """The GGUF for llama.cpp's own loop: the same tensors, each once, and the order to run all blocks `loops` times.

    Args:
        gguf: of the llama architecture, whose blocks, tensor names and row order the looped one shares.
        path: of the new file.
        loops: that the file is fixed to.
        loop_end_norm: the final norm at every loop end, not at the last one alone.

    Raises:
        MobileloopError: where the GGUF is of another architecture.
    """
    more = {f"{LOOPED}.num_loops": loops, f"{LOOPED}.skip_loop_final_norm": not loop_end_norm}
    _rewrite(gguf, path, architecture=LOOPED, more=more)


def _rewrite(
    gguf: Path,
    path: Path,
    times: int = 1,
    architecture: str | None = None,
    more: Mapping[str, int | bool] | None = None,
) -> None:
    """A GGUF again, every block `times` in a row, its keys under another architecture's name, with `more` of them."""
    from gguf import GGUFValueType, GGUFWriter

    reader = open_gguf(gguf)
    before = str(reader.fields["general.architecture"].contents())
    if architecture is not None and before != "llama":
        raise MobileloopError(
            f"{gguf} is of the architecture '{before}', but llama.cpp loops the blocks of llama alone."
        )
    architecture = architecture or before
    with written_whole(path) as temporary:
        writer = GGUFWriter(str(temporary), architecture)
        for name, field in reader.fields.items():
            if name.startswith("GGUF.") or name == "general.architecture":
                continue
            value: Any = field.contents()
            prefix, _, key = name.partition(".")
            if prefix == before:
                name, value = f"{architecture}.{key}", value * times if key == "block_count" else value
            kind = field.types[0]
            inner = field.types[1] if kind is GGUFValueType.ARRAY else None
            writer.add_key_value(name, value, kind, inner)
        for name, added in (more or {}).items():
            writer.add_key_value(name, added, GGUFValueType.BOOL if isinstance(added, bool) else GGUFValueType.UINT32)
        for stored in reader.tensors:
            for name in _copies(stored.name, times):
                writer.add_tensor(name, stored.data, raw_dtype=stored.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _copies(name: str, times: int) -> list[str]:
    """`blk.3.x` for two applications is `blk.6.x` and `blk.7.x`; other tensors stay single."""
    prefix, _, rest = name.partition(".")
    number, _, tail = rest.partition(".")
    if prefix != "blk" or not number.isdigit():
        return [name]
    return [f"blk.{int(number) * times + copy}.{tail}" for copy in range(times)]


def write_folder(gguf: Path, folder: Path) -> None:
    """A Hugging Face folder of float32 weights with its tokenizer, for builders that quantize by themselves."""
    from safetensors.numpy import save_file

    checkpoint = load_checkpoint(str(gguf))
    tensors = {_folder_name(name): _floats(tensor) for name, tensor in checkpoint.tensors.items()}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    _write_json(folder / "config.json", _folder_config(checkpoint))
    spec = checkpoint.tokenizer
    if spec is not None:
        (folder / "tokenizer.json").write_text(spec.json_text, encoding="utf-8")
        described = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": spec.bos_token,
            "eos_token": spec.eos_token,
            "model_max_length": checkpoint.config.max_position,
        }
        _write_json(folder / "tokenizer_config.json", described)


def _folder_name(name: str) -> str:
    if name in _FOLDER_NAMES:
        return _FOLDER_NAMES[name]
    _, block, short = name.split(".")
    return f"model.layers.{block}.{_FOLDER_NAMES.get(short, short)}.weight"


def _folder_config(checkpoint: Checkpoint) -> dict[str, Any]:
    config, spec = checkpoint.config, checkpoint.tokenizer
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_blocks,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_position,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float32",
        "bos_token_id": spec.bos_id if spec and spec.bos_id is not None else 1,
        "eos_token_id": spec.eos_ids[0] if spec and spec.eos_ids else 2,
        "pad_token_id": 0,
    }


def meta_weights(gguf: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Weights and parameters in the names and the rotary row order of Meta's Llama, as ExecuTorch's model wants them.

    Returns:
        the tensors, float32, and the content of params.json.
    """
    checkpoint = load_checkpoint(str(gguf))
    config = checkpoint.config
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, tensor in checkpoint.tensors.items():
        values = _floats(tensor)
        if name.endswith(".q_proj"):
            values = _interleaved(values, config.num_heads)
        elif name.endswith(".k_proj"):
            values = _interleaved(values, config.num_kv_heads)
        tensors[_meta_name(name)] = values
    tensors.setdefault("output.weight", tensors["tok_embeddings.weight"].copy())
    params = {
        "dim": config.hidden_size,
        "n_layers": config.num_blocks,
        "n_heads": config.num_heads,
        "n_kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_dim": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "use_scaled_rope": False,
    }
    return tensors, params


def _meta_name(name: str) -> str:
    if name in _META_NAMES:
        return _META_NAMES[name]
    _, block, short = name.split(".")
    return f"layers.{block}.{_META_NAMES[short]}.weight"


def _interleaved(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of half-split rotary pairs in the order of interleaved ones: row i + p * half becomes row 2i + p."""
    rows = values.shape[0]
    order = np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(-1)
    return np.ascontiguousarray(values[order])


def _floats(tensor: QuantTensor | NDArray[np.float32]) -> NDArray[np.float32]:
    return tensor.dequantize() if isinstance(tensor, QuantTensor) else np.ascontiguousarray(tensor, dtype=np.float32)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
