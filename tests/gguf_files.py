"""Small GGUF files of the llama architecture, written by the `gguf` package."""

import gguf
import numpy as np

Q = gguf.GGMLQuantizationType
SHORT = {
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
OUTER = {"embedding": "token_embd.weight", "final_norm": "output_norm.weight", "head": "output.weight"}


def permuted(weights, heads):
    """What llama.cpp's converter does to query and key rows."""
    rows, cols = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def write_gguf(
    path,
    checkpoint,
    kind=Q.F32,
    architecture="llama",
    tokenizer=None,
    skip=(),
    extra_key=None,
    extra_tensor=None,
    **fields,
):
    """A checkpoint as a GGUF file; `extra_key` is (name, value), `extra_tensor` a name, `fields` the architecture's."""
    config = checkpoint.config
    writer = gguf.GGUFWriter(str(path), architecture)
    numbers = {
        "block_count": config.num_blocks,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "context_length": config.max_position,
        "rope.dimension_count": config.head_dim,
    }
    numbers.update(fields)
    for name, number in numbers.items():
        if isinstance(number, str):
            writer.add_string(f"{architecture}.{name}", number)
        elif number is not None:
            writer.add_uint32(f"{architecture}.{name}", number)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    writer.add_float32(f"{architecture}.rope.freq_base", config.rope_theta)
    if tokenizer:
        tokenizer(writer)
    if extra_key:
        _add_value(writer, *extra_key)
    if extra_tensor:
        writer.add_tensor(extra_tensor, np.ones(32, np.float32))
    for name, tensor in checkpoint.tensors.items():
        parts = name.split(".")
        stored = OUTER[name] if name in OUTER else f"blk.{parts[1]}.{SHORT[parts[2]]}.weight"
        if stored in skip:
            continue
        if name.endswith(".q_proj"):
            tensor = permuted(tensor, config.num_heads)
        elif name.endswith(".k_proj"):
            tensor = permuted(tensor, config.num_kv_heads)
        if tensor.ndim == 1 or kind == Q.F32:
            writer.add_tensor(stored, np.ascontiguousarray(tensor))
        elif kind == Q.F16:
            writer.add_tensor(stored, tensor.astype(np.float16))
        else:
            writer.add_tensor(stored, gguf.quants.quantize(np.ascontiguousarray(tensor), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_value(writer, name, value):
    """Any plain value as metadata."""
    if isinstance(value, list):
        writer.add_array(name, value)
    elif isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_int32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    else:
        writer.add_string(name, value)
