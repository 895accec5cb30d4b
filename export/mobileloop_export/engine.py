"""The engine's own format: a safetensors file of page-aligned records, metadata in its header (docs/format.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobileloop.artifact import ArtifactInfo
from mobileloop.packed import PackedModel
from mobileloop.quant.records import PAGE
from mobileloop_export.contract import Progress


def write(packed: PackedModel, info: ArtifactInfo, path: Path, progress: Progress) -> None:
    """Write the artifact record by record, so that memory holds one block at a time.

    The header is padded with spaces (safetensors allows it) until the data start on a page; every record is a whole
    number of pages, so each block begins on one.
    """
    sizes = {name: int(record.nbytes) for name, record in _records(packed)}
    header = _header(packed, info, sizes)
    with path.open("wb") as stream:
        stream.write(header)
        for done, (name, record) in enumerate(_records(packed)):
            progress(f"writing {name}", done / (len(sizes) + 1))
            stream.write(record.tobytes())
        for name in _vectors(packed):
            stream.write(np.ascontiguousarray(packed.vector(name), dtype="<f4").tobytes())
        stream.flush()


def _records(packed: PackedModel) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Records in the order a token reads them."""
    yield "embedding", packed.matrix_record("embedding")
    for block in range(packed.config.num_blocks):
        yield f"blocks.{block}", packed.block_record(block)
    if not packed.config.tie_embeddings:
        yield "head", packed.matrix_record("head")


def _vectors(packed: PackedModel) -> list[str]:
    return ["final_norm", *(["exit_gate.weight", "exit_gate.bias"] if packed.config.exit_gate else [])]


def _header(packed: PackedModel, info: ArtifactInfo, sizes: dict[str, int]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"mobileloop": info.model_dump_json(), "format": "mobileloop"}}
    offset = 0
    for name, size in sizes.items():
        entries[name] = {"dtype": "U8", "shape": [size], "data_offsets": [offset, offset + size]}
        offset += size
    for name in _vectors(packed):
        size = packed.vector(name).size
        entries[name] = {"dtype": "F32", "shape": [size], "data_offsets": [offset, offset + 4 * size]}
        offset += 4 * size
    text = json.dumps(entries, separators=(",", ":")).encode("utf-8")
    padded = -(-(8 + len(text)) // PAGE) * PAGE - 8
    return padded.to_bytes(8, "little") + text.ljust(padded, b" ")
