"""Where the tensors of a GGUF file lie: each within the file, behind its table, and none over another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mobileloop.errors import MobileloopError, printable


def check_layout(path: Path, reader: Any) -> None:
    """Raise MobileloopError where a tensor's place is impossible; the package's reader takes what it finds there.

    Args:
        path: the file, for messages.
        reader: a GGUFReader of it.
    """
    end, before = int(reader.data_offset), None
    for tensor in sorted(reader.tensors, key=lambda one: int(one.data_offset)):
        begin = int(tensor.data_offset)
        if begin < end:
            over = f"the tensor {printable(before)}" if before is not None else "the header"
            raise MobileloopError(
                f"{path} is damaged: the tensor {printable(tensor.name)} lies over {over}; download it again."
            )
        end, before = begin + int(tensor.n_bytes), tensor.name
    if end > path.stat().st_size:
        raise MobileloopError(f"{path} is cut short: it ends before the tensor {printable(before or '')} does.")
