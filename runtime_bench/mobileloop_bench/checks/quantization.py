"""Our quantization beside llama.cpp's, at equal bytes, from the same float weights, by one evaluator.

    python -m mobileloop_bench.checks.quantization MODEL.gguf --llama FOLDER [--schedule range:12-17:2:0.5]
        [--text FILE] [--work FOLDER] [--json OUT] [--markdown OUT]

FOLDER holds llama-quantize and llama-imatrix. The float weights are made from MODEL.gguf: its values, each moved by a
random share of its rounding cell, so that they lie on nobody's grid (a file that was quantized once is given back
without loss by the scheme that it came from, which would say nothing). Every candidate is read by our loader and run in
float32 by the PyTorch reference under the schedule: the mean Kullback-Leibler divergence from the float weights in
nats, and the perplexity, over the packaged text and over one more. No candidate was fitted to a token of either;
ours and the importance matrix get the same calibration text.

Bytes are those of the weights: codes, scales and minimums of every matrix, and float32 norms.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOKENS = 512  # of each text
WINDOW = 256
SEED = 7
TYPES = ("Q4_0", "Q4_K_M")


def write_float_source(source: Path, path: Path, seed: int = SEED) -> None:
    """The same GGUF with its matrices as float32, each weight moved within its rounding cell (see above)."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize

    reader, random = GGUFReader(str(source)), np.random.default_rng(seed)
    writer = GGUFWriter(str(path), reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        values = dequantize(np.asarray(tensor.data), tensor.tensor_type).astype(np.float32)
        cell = _cell(tensor.tensor_type, np.asarray(tensor.data), GGMLQuantizationType)
        if cell is not None:
            moved = random.random(values.shape, dtype=np.float32) - np.float32(0.5)
            values = values + moved * np.repeat(cell, values.shape[-1] // cell.shape[-1], axis=-1)
        writer.add_tensor(tensor.name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _cell(kind: Any, data: NDArray[Any], kinds: Any) -> NDArray[np.float32] | None:
    """How far apart two codes of a group are, [rows, groups]; None for floats."""
    sizes = {kinds.Q4_0: 18, kinds.Q4_1: 20, kinds.Q8_0: 34}
    if kind not in sizes:
        return None
    blocks = np.ascontiguousarray(data.reshape(data.shape[0], -1, sizes[kind])[:, :, :2])
    return np.abs(blocks.view(np.float16)[:, :, 0].astype(np.float32))
