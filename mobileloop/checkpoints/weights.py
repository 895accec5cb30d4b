"""The weights of a folder: which files they are, what is in them, and whether they were quantized before."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, which safetensors then returns)
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from mobileloop.errors import MobileloopError, library_errors, printable
from mobileloop.files import check_content, read_json

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")
_OTHER_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.onnx", "*.npz", "*.h5", "*.msgpack")
_OF_TRAINING = re.compile(r"(training_args|rng_state.*|optimizer|scheduler|scaler)\.(bin|pt|pth)")
_PARTS_OF_A_QUANTIZED_MATRIX = {  # the end of a tensor's name -> what writes such tensors
    ".qweight": "GPTQ or AWQ",
    ".qzeros": "GPTQ or AWQ",
    ".g_idx": "GPTQ",
    ".quant_map": "bitsandbytes",
    ".absmax": "bitsandbytes",
    ".SCB": "bitsandbytes (8 bits)",
    ".weight_packed": "compressed-tensors",
    ".weight_scale": "compressed-tensors or FP8",
    ".weight_scale_inv": "FP8",
    ".weight_scale_2": "NVFP4",
    ".input_scale": "FP8",
    ".qscale": "FP8",
    ".scales": "MLX, GPTQ or AWQ",
    ".W_q": "HQQ",
    "_blocks": "MXFP4",
}
_KINDS = {"F8_E4M3": "FP8", "F8_E5M2": "FP8", "F4": "FP4", "U32": "packed integers", "I8": "int8", "U8": "packed bytes"}
_UNQUANTIZED = "take the unquantized checkpoint of this model, or a GGUF file"


class StoredTensors:
    """The tensors of a folder's weight files, opened by their headers alone.

    Attributes:
        files: the weight files, in the order their hash is taken.
        notes: what was decided about them.
        dtypes: safetensors' name of each tensor's type.

    Raises:
        MobileloopError: where the weights are missing, ambiguous, pickled, damaged or outside the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files, weight_map, notes = _weight_files(folder)
        self.dtypes: dict[str, str] = {}
        self._file_of: dict[str, Path] = {}
        self._stored_as: dict[str, str] = {}
        for path in self.files:
            for name, dtype in _header(path).items():
                if weight_map is None or weight_map.get(name, path.name) == path.name:
                    self.dtypes[name], self._file_of[name] = dtype, path
        for name, shard in (weight_map or {}).items():
            if name not in self.dtypes:
                raise MobileloopError(
                    f"{folder / INDEX} says that {shard} holds {printable(name)}, and it does not; the index or the "
                    "shard is of another download."
                )
        self.notes = tuple(notes)

    def name_as(self, expected: str) -> None:
        """Read names as the family spells them, where a wrapper put a prefix before all of them, or left one out.

        Args:
            expected: a tensor that every model of the family has, such as `model.norm.weight`.
        """
        if expected in self.dtypes:
            return
        root, _, bare = expected.partition(".")  # "model", "norm.weight"
        prefixes = {name.removesuffix(expected) for name in self.dtypes if name.endswith("." + expected)}
        if len(prefixes) == 1:
            prefix = prefixes.pop()
            names = {name: name.removeprefix(prefix) for name in self.dtypes}
            told = f"the names of the tensors begin with {printable(prefix)}, which is left out"
        elif not prefixes and bare in self.dtypes:
            names = {name: name if name.startswith("lm_head.") else f"{root}.{name}" for name in self.dtypes}
            told = f"the names of the tensors lack {root}., as a model saved without its head has them"
        else:
            return
        if len(set(names.values())) != len(names):
            raise MobileloopError(f"{self.folder} holds the same tensors under several prefixes; keep one set of them.")
        self._stored_as = {new: old for old, new in names.items()}
        self.dtypes = {names[name]: dtype for name, dtype in self.dtypes.items()}
        self._file_of = {names[name]: path for name, path in self._file_of.items()}
        self.notes = (*self.notes, told)

    def __contains__(self, name: str) -> bool:
        return name in self.dtypes

    def read(self, name: str) -> NDArray[np.float32]:
        """One tensor as float32.

        Raises:
            MobileloopError: where it is missing, no float, or its file is damaged.
        """
        if name not in self.dtypes:
            raise MobileloopError(f"{self.folder} lacks the tensor {name}; the download may be incomplete.")
        dtype = self.dtypes[name]
        if dtype not in _FLOATS:
            kind = _KINDS.get(dtype, "not a floating-point type")
            raise MobileloopError(f"{self.folder}: the tensor {name} is {dtype} ({kind}); {_UNQUANTIZED}.")
        path = self._file_of[name]
        with library_errors(f"the tensor {name} of {path}", "download it again"):
            with safe_open(str(path), framework="np") as stored:
                tensor = stored.get_tensor(self._stored_as.get(name, name))
            with np.errstate(over="ignore"):
                return np.asarray(tensor).astype(np.float32)

    def check_unquantized(self, raw: Mapping[str, Any]) -> None:
        """Raise MobileloopError where the folder's weights were quantized before; named before any tensor is missed."""
        said = raw.get("quantization_config") or raw.get("quantization")
        if said:
            method = said.get("quant_method") or said.get("quant_algo") if isinstance(said, Mapping) else None
            if method is None and isinstance(said, Mapping) and {"bits", "group_size"} & set(said):
                method = "MLX"
            bits = said.get("bits") if isinstance(said, Mapping) else None
            told = printable(str(method or "a method it does not name")) + (f", {bits} bits" if bits else "")
            raise MobileloopError(f"{self.folder} is quantized already ({told}); {_UNQUANTIZED}.")
        for name, dtype in self.dtypes.items():
            for end, method in _PARTS_OF_A_QUANTIZED_MATRIX.items():
                if name.endswith(end):
                    raise MobileloopError(
                        f"{self.folder} is quantized already ({method}: it holds {printable(name)}); {_UNQUANTIZED}."
                    )
            if name.endswith("weight") and dtype not in _FLOATS:
                kind = _KINDS.get(dtype, "no floating-point type")
                raise MobileloopError(
                    f"{self.folder} is quantized already ({kind}: {printable(name)} is {dtype}); {_UNQUANTIZED}."
                )

    def settle(self, used: Iterable[str], without_effect: Callable[[str], bool]) -> list[str]:
        """Account for the tensors that no block used.

        Args:
            used: names that the model is made of.
            without_effect: whether a tensor of this name is known not to change the answer.

        Raises:
            MobileloopError: for weights that the model would need another kind of block for.
        """
        left = sorted(set(self.dtypes) - set(used))
        unused = [name for name in left if not without_effect(name)]
        zero = [name for name in unused if name.endswith("bias") and self.dtypes[name] in _FLOATS]
        zero = [name for name in zero if not self.read(name).any()]
        floats = {name for name in unused if self.dtypes[name] in _FLOATS} - set(zero)
        refuse_unused(self.folder, floats)
        notes = [f"biases that are all zero are left out: {_listed(zero)}"] if zero else []
        buffers = [name for name in unused if self.dtypes[name] not in _FLOATS]
        if buffers:
            notes.append(f"tensors that are no weights (integers) are left out: {_listed(buffers)}")
        return notes


def refuse_unused(where: Path, names: set[str]) -> None:
    """Raise MobileloopError where a source holds weights that no block would use: the model would be another one."""
    if names:
        first = printable(sorted(names)[0])
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise MobileloopError(
            f"{where} holds the tensor {first}{more} that this model has no place for "
            "(biases, or a block of another kind); it is not a model that mobileloop can run."
        )


def _listed(names: list[str]) -> str:
    return ", ".join(printable(name) for name in names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")


def _header(path: Path) -> dict[str, str]:
    """Name -> type of every tensor of a file."""
    check_content(path)
    damage = library_errors(str(path), "it is damaged or cut short; download it again")
    with damage, safe_open(str(path), framework="np") as stored:
        return {name: stored.get_slice(name).get_dtype() for name in stored.keys()}  # noqa: SIM118


def _weight_files(folder: Path) -> tuple[list[Path], dict[str, str] | None, list[str]]:
    """Which files are the weights: model.safetensors, else what its index names, else the only .safetensors file.

    Returns:
        The files, the index's map of tensors to files (None without an index), and notes.
    """
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    if WHOLE in found:
        chosen, weight_map = [folder / WHOLE], None
    elif (folder / INDEX).is_file():
        chosen, weight_map = _indexed(folder)
    elif len(found) == 1:
        chosen, weight_map = [folder / found[0]], None
    elif found:
        raise MobileloopError(
            f"{folder} holds {len(found)} .safetensors files ({_listed(found)}) and neither {WHOLE} nor {INDEX}, so it "
            f"is not said which are the model; name the right one {WHOLE}."
        )
    else:
        _refuse_without_safetensors(folder)
    names = {path.name for path in chosen}
    beside = sorted(
        path.name
        for pattern in _OTHER_WEIGHTS
        for path in folder.glob(pattern)
        if path.name not in names and not _OF_TRAINING.fullmatch(path.name)
    )
    if WHOLE in names and (folder / INDEX).is_file():
        beside.append(INDEX)
    return chosen, weight_map, [f"weights beside the model are not read: {_listed(beside)}"] if beside else []


def _indexed(folder: Path) -> tuple[list[Path], dict[str, str]]:
    index = folder / INDEX
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise MobileloopError(f"{index} has no weight_map, so the shards are unknown; download it again.")
    names = sorted({str(value) for value in weight_map.values()})
    for name in names:
        if Path(name).name != name or "\0" in name:
            raise MobileloopError(
                f"{index} names the shard '{printable(name)}' outside its folder, which is not followed."
            )
        if not (folder / name).is_file():
            raise MobileloopError(f"{folder} lacks the shard {printable(name)}; the download may be incomplete.")
    return [folder / name for name in names], {str(key): str(value) for key, value in weight_map.items()}


def _refuse_without_safetensors(folder: Path) -> NoReturn:
    pickles = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if pickles:
        raise MobileloopError(
            f"{folder} holds only pickled weights ({printable(pickles[0])}), which can run code when opened; give "
            "--weights-only-bin to have them read without code, or take a revision that has model.safetensors."
        )
    others = sorted(path.name for pattern in _OTHER_WEIGHTS for path in folder.glob(pattern))
    held = f", only {_listed(others)}, which are not read" if others else ""
    raise MobileloopError(
        f"{folder} holds no safetensors file{held}; the download may be incomplete, or it is of another format: take a "
        "revision that has model.safetensors."
    )
