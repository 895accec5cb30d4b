"""The child process that opens a pickled checkpoint: PyTorch's weights-only loader behind locked doors.

    python -m mobileloop.checkpoints.unpickle CHECKPOINT OUT.safetensors

Standard output is one JSON object: `{"notes": [...]}`, or `{"refused": "why"}`, a clause that follows the file's name.
The loader itself calls nothing but constructors of tensors. Should it have a hole, then what comes out of it meets
bounds on memory, time and file sizes, an audit hook, and, on x86-64 and ARM64, a filter of system calls: no socket, no
program and no process can be begun.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import re
import resource
import struct
import sys
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import torch

GIB = 1 << 30
NESTED = ("state_dict", "model_state_dict", "model", "module")  # where training programs put the weights
MOST_GROWTH = 4  # bytes written per byte read: tensors that share their storage are written once each

# <linux/audit.h>, <asm/unistd.h>: an architecture, and its numbers of socket, connect, bind, listen, socketpair, clone,
# (fork, vfork,) clone3, execve, execveat, ptrace, process_vm_writev and io_uring_setup.
_FORBIDDEN = {
    "x86_64": (0xC000003E, (41, 42, 49, 50, 53, 56, 57, 58, 435, 59, 322, 101, 311, 425)),
    "aarch64": (0xC00000B7, (198, 203, 200, 201, 199, 220, 435, 221, 281, 117, 271, 425)),
}
_X32 = 0x40000000  # system calls of another binary interface, which the same processor takes
_AUDITED = re.compile(
    r"socket\.|subprocess\.|ctypes\.|os\.(system|exec|posix_spawn|spawn|fork|remove|rename|rmdir|mkdir|link|symlink|chmod|"
    r"chown|truncate|putenv|kill|startfile)|shutil\.|urllib\.|ftplib\.|http\.|smtplib\.|pty\.|webbrowser\."
)
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip


class RefusedError(Exception):
    """What is wrong with the file, as a clause."""


def main(source: str, out: str) -> dict[str, Any]:
    """Convert one file; what is printed."""
    torch.set_num_threads(1)
    try:
        size = os.path.getsize(source)
        with open(out, "wb") as stream:
            limit(size)
            filtered = forbid_calls()
            watch()
            notes = convert(source, size, stream)
        unfiltered = ["the system lacks the filter of system calls, so bounds and the interpreter's own watch kept it"]
        return {"notes": notes if filtered else [*notes, *unfiltered]}
    except RefusedError as error:
        return {"refused": str(error)}
    except MemoryError:
        return {
            "refused": "needs more memory to be opened than a file of its size should; it is damaged or made to harm"
        }
    except Exception as error:  # whatever the loader stumbles over; the parent words it
        return {"refused": _worded(error)}


# -- the doors -----------------------------------------------------------------------------------------


def limit(size: int) -> None:
    """Bound memory, processor time, files and their sizes, from here on; `size` is of the file in bytes."""
    with open("/proc/self/statm", encoding="ascii") as stream:
        now = int(stream.read().split()[0]) * resource.getpagesize()
    seconds = 60 + size // 20_000_000
    bounds = {
        resource.RLIMIT_AS: now + 4 * size + 2 * GIB,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: (MOST_GROWTH + 1) * size + (64 << 20),
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for which, most in bounds.items():
        hard = resource.getrlimit(which)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, most))


def forbid_calls() -> bool:
    """Have the kernel refuse sockets, programs and processes; False where it cannot."""
    if platform.machine() not in _FORBIDDEN or sys.maxsize < 1 << 32:
        return False
    architecture, numbers = _FORBIDDEN[platform.machine()]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    refuse, allow = 0x00050001, 0x7FFF0000  # errno EPERM
    checks = [(at_least, _X32), *((equal, number) for number in numbers)]
    program = [(load, 0, 0, 4), (equal, 0, len(checks) + 2, architecture), (load, 0, 0, 0)]
    program += [(code, len(checks) - place, 0, value) for place, (code, value) in enumerate(checks)]
    program += [(give, 0, 0, allow), (give, 0, 0, refuse)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    call = ctypes.CDLL(None, use_errno=True).prctl
    call.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
    return bool(call(38, 1, None, 0, 0) == 0 and call(22, 2, ctypes.addressof(header), 0, 0) == 0)


def watch() -> None:
    """Have the interpreter refuse what no loader of weights does, such as opening a file to write."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or _AUDITED.match(event):
            raise PermissionError(f"{event} is not allowed here")

    sys.addaudithook(hook)


# -- the weights ---------------------------------------------------------------------------------------


def convert(source: str, size: int, stream: BinaryIO) -> list[str]:
    """Write the tensors of `source` as safetensors; what the user should know.

    Raises:
        RefusedError: where it holds anything else.
    """
    held = torch.load(source, map_location="cpu", weights_only=True, mmap=_is_zip(source))
    tensors, dropped = _weights(held)
    for name, tensor in tensors.items():
        _check(name, tensor)
    if sum(tensor.nbytes for tensor in tensors.values()) > MOST_GROWTH * size + (1 << 20):
        raise RefusedError("holds tensors far larger than itself, which is no way to store weights")
    notes = [f"beside the weights it holds {', '.join(dropped)}, which are left out"] if dropped else []
    _write(tensors, notes, stream)
    return notes


def _is_zip(source: str) -> bool:
    """Whether it has the format of PyTorch 1.6 and later, which can be mapped."""
    if not zipfile.is_zipfile(source):
        return False
    with zipfile.ZipFile(source) as archive:
        if any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist()):
            raise RefusedError("is a compressed archive, which PyTorch does not write")
    return True


def _weights(held: Any) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The weights, and the names of what lies beside them."""
    if not isinstance(held, Mapping):
        raise RefusedError(f"holds a {type(held).__name__}, but weights by name were expected")
    nested = [key for key in NESTED if isinstance(held.get(key), Mapping) and held[key]]
    if len(nested) > 1:
        raise RefusedError(
            f"holds weights under each of {', '.join(nested)}, so which of them are the model is not known"
        )
    dropped = [_shown(key) for key in held if key != nested[0]][:8] if nested else []
    tensors = held[nested[0]] if nested else held
    if not tensors:
        raise RefusedError("holds no tensors")
    for key, value in tensors.items():
        if not isinstance(key, str) or key == "__metadata__":
            raise RefusedError(f"names a tensor {_shown(key)}, which is no name of one")
        if not isinstance(value, torch.Tensor):
            raise RefusedError(f"holds '{_shown(key)}', a {type(value).__name__}, among its tensors")
    return {str(key): value.detach() for key, value in tensors.items()}, dropped


def _check(name: str, tensor: torch.Tensor) -> None:
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or kind not in _DTYPES:
        what = "quantized" if tensor.is_quantized else "without values" if tensor.is_meta else kind
        what = what if tensor.layout == torch.strided else "sparse"
        raise RefusedError(f"holds the tensor {_shown(name)} of a kind that is not read ({what})")
    if type(tensor) is not torch.Tensor:
        raise RefusedError(f"holds the tensor {_shown(name)} of the kind {type(tensor).__name__}, which is not read")


def _write(tensors: dict[str, torch.Tensor], notes: list[str], stream: BinaryIO) -> None:
    """The safetensors format: the length of a JSON header, the header, the values one behind the other."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "notes": json.dumps(notes)}}
    end = 0
    for name in order:
        tensor, begin = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        kind = _DTYPES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stream.write(struct.pack("<Q", len(text)) + text)
    for name in order:
        for part in _parts(tensors[name]):
            stream.write(part.contiguous().view(-1).view(torch.uint8).numpy().data)
    stream.flush()


def _parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """A tensor whole where it lies in order, else by rows, so that no view is copied as a whole."""
    if tensor.numel() == 0:
        return
    if tensor.dim() == 0 or tensor.is_contiguous():
        yield tensor.reshape(-1)
    else:
        yield from (row.reshape(-1) for row in tensor)


def _shown(key: object) -> str:
    text = str(key) if isinstance(key, (str, int, float, bool)) else type(key).__name__
    return (text if text.isprintable() else ascii(text))[:80]


def _worded(error: Exception) -> str:
    """The loader's own words, without its advice to open the file unsafely."""
    told = " ".join(str(error).split())
    asked = re.search(r"(?:GLOBAL|Unsupported (?:global|class)[^\w]*|global )\s*([A-Za-z_][\w.]+\.[\w.]+)", told)
    if asked:
        return f"asks for {_shown(asked[1])} when it is opened, which weights never need"
    if "memory" in told or "alloc" in told:
        return "needs more memory to be opened than a file of its size should; it is damaged or made to harm"
    found = re.search(r"WeightsUnpickler error: (.*?)(?: Please file|$)", told)
    reason = (found[1] if found else told) or type(error).__name__
    return f"is no checkpoint that the weights-only loader reads ({_shown(reason)})"


if __name__ == "__main__":
    said = os.dup(1)
    with contextlib.suppress(OSError):
        os.dup2(2, 1)  # what the library prints is no answer
    os.write(said, json.dumps(main(sys.argv[1], sys.argv[2])).encode())
