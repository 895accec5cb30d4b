"""Whether a GGUF file can be what it says: sizes within the file, tensors behind the header and none over another.

The `gguf` package believes every size: of an array that claims 2^40 elements it makes as many objects, far beyond the
end of the file, until the memory is full. So the sizes are walked through here before it sees the file.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from mobileloop.errors import MobileloopError, printable

# Bytes of a value by its type; strings and arrays have a length of their own.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_MOST_NESTED = 4
_MOST_DIMENSIONS = 8


class _Walk:
    """A place in the file that moves on over what is there."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def whole(self, form: str) -> int:
        size = struct.calcsize(form)
        if self.at + size > len(self.data):
            raise ValueError("the file ends within it")
        (number,) = struct.unpack_from(form, self.data, self.at)
        self.at += size
        return int(number)

    def skip(self, size: int) -> None:
        if size > len(self.data) - self.at:
            raise ValueError(f"it claims {size} bytes, and {len(self.data) - self.at} are left")
        self.at += size

    def text(self) -> bytes:
        length, begin = self.whole("<Q"), self.at
        self.skip(length)
        return self.data[begin : begin + min(length, 200)]

    def value(self, kind: int, depth: int = 0) -> None:
        if kind in _SIZES:
            self.skip(_SIZES[kind])
        elif kind == _STRING:
            self.text()
        elif kind == _ARRAY and depth < _MOST_NESTED:
            inner, count = self.whole("<I"), self.whole("<Q")
            if inner in _SIZES:
                self.skip(count * _SIZES[inner])
                return
            for _ in range(count):  # each takes bytes of the file, so the walk ends with it
                self.value(inner, depth + 1)
        else:
            raise ValueError(f"it is of the type {kind}, which is none" if kind != _ARRAY else "it nests too deep")


def check_sizes(path: Path) -> None:
    """Raise MobileloopError where a size in the header of a little-endian GGUF file does not fit the file."""
    what = "the header"
    try:
        if path.stat().st_size == 0:
            raise ValueError("the file is empty")
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:4] != b"GGUF":
                return  # the package says what it is
            walk = _Walk(data)
            walk.skip(8)
            tensors, keys = walk.whole("<Q"), walk.whole("<Q")
            for _ in range(keys):
                what = "the name of a key"
                what = f"the key {printable(walk.text().decode('utf-8', 'replace'))}"
                walk.value(walk.whole("<I"))
            for _ in range(tensors):
                what = "the name of a tensor"
                what = f"the tensor {printable(walk.text().decode('utf-8', 'replace'))}"
                dimensions = walk.whole("<I")
                if dimensions > _MOST_DIMENSIONS:
                    raise ValueError(f"it claims {dimensions} dimensions")
                walk.skip(8 * dimensions + 4 + 8)
    except (ValueError, OSError) as error:
        raise MobileloopError(
            f"{path} is damaged or cut short: {what} cannot be read ({error}); download it again."
        ) from None


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
