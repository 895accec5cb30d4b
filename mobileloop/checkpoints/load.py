"""One door for every source: a Hugging Face folder, a GGUF file, a name on the hub, or a preset with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.checkpoints.folder import load_folder
from mobileloop.checkpoints.gguf import load_gguf
from mobileloop.checkpoints.hub import Snapshot, fetch_snapshot, hub_name, named
from mobileloop.checkpoints.pickled import converted, pickles
from mobileloop.checkpoints.random import random_checkpoint
from mobileloop.console import visible
from mobileloop.errors import MobileloopError, printable
from mobileloop.families.registry import family_of, preset_names
from mobileloop.files import read_json, text_of
from mobileloop.quant.schemes import QuantTensor

Tell = Callable[[str, float], None]

_MODEL_FILES = (".json", ".safetensors", ".model", ".jinja", ".bin")

# What people give for a source and what it is, by the end of its name.
_NO_SOURCES = {
    ".safetensors": "weights, or an artifact, without the config.json beside them; give the folder it lies in",
    ".onnx": "an ONNX model, which is something to be exported to; give the checkpoint that it was made from",
    ".pte": "an ExecuTorch program, which is something to be exported to; give the checkpoint that it was made from",
    ".json": "JSON; give the folder it lies in",
}


def load_checkpoint(source: str, seed: int = 0, weights_only_bin: bool = False, tell: Tell | None = None) -> Checkpoint:
    """Load a source.

    Args:
        source: a folder with config.json and safetensors, a .gguf file, a name on the hub (OWNER/NAME, with @REVISION
            and :FILE.gguf where wanted), or a preset's name (random weights). What lies here comes first.
        seed: of a preset's random weights.
        weights_only_bin: read pytorch_model.bin where there is no safetensors file.
        tell: told what is fetched and converted, and the share of it that is done.

    Raises:
        MobileloopError: where the source is missing, damaged, unsupported, or only holds pickled weights.
    """
    told = tell or (lambda step, share: None)
    if source in preset_names():
        return random_checkpoint(source, seed)
    path = _path(source)
    if path.is_dir():
        return _here(_folder(path, weights_only_bin, told))
    if path.is_file():
        return _here(load_gguf(_gguf(path)))
    if path.exists():
        raise MobileloopError(f"{text_of(path)} is a device or a pipe, not a source; give a folder or a .gguf file.")
    name = None if path.is_symlink() else hub_name(source)
    if name is None:
        raise MobileloopError(f"{_missing(path)}; {_wanted()}.")
    snapshot = fetch_snapshot(name, weights_only_bin, told)
    with named(snapshot.path if snapshot.path.is_dir() else snapshot.path.parent, name.repo):
        loaded = _folder(snapshot.path, weights_only_bin, told) if name.file is None else load_gguf(snapshot.path)
    return _published(loaded, snapshot)


def _path(source: str) -> Path:
    if not source or "\0" in source:
        raise MobileloopError(f"the source's name is empty or holds a zero byte; {_wanted()}.")
    path = Path(source)
    try:
        path.lstat()
    except OSError as error:
        if error.strerror and not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise MobileloopError(
                f"{printable(text_of(path))} cannot be opened: {error.strerror}; {_wanted()}."
            ) from None
    return path


def _wanted() -> str:
    return f"give a folder, a .gguf file, a name on the hub (OWNER/NAME) or a preset ({', '.join(preset_names())})"


def _missing(path: Path) -> str:
    shown = printable(text_of(path))
    if "://" in str(path) or str(path).startswith(("https:/", "http:/")):
        return f"{shown} is an address, and sources on the hub are named OWNER/NAME"
    return f"{shown} is a link that leads nowhere" if path.is_symlink() else f"{shown} does not exist"


def _gguf(path: Path) -> Path:
    """The file, refused where its name says that it is something else."""
    shown, suffix = text_of(path), path.suffix.lower()
    if suffix in (".bin", ".pt", ".pth", ".ckpt"):
        raise MobileloopError(
            f"{shown} is a pickle, which can run code when it is opened; give the folder that it lies in beside its "
            "config.json, with --weights-only-bin."
        )
    if suffix == ".safetensors" and path.with_name("config.json").is_file():
        raise MobileloopError(f"{shown} is a file of a checkpoint folder; give the folder: {text_of(path.parent)}.")
    if suffix != ".gguf":
        what = _NO_SOURCES.get(suffix, "not a source; give a folder with config.json and safetensors, or a .gguf file")
        raise MobileloopError(f"{shown} is {what}.")
    return path


def _folder(folder: Path, weights_only_bin: bool, tell: Tell) -> Checkpoint:
    """Load a folder; pickled weights are converted first, where that is wanted."""
    _check_files(folder)
    found = pickles(folder)
    if not found or not (folder / "config.json").is_file():
        return load_folder(folder)
    family_of(read_json(folder / "config.json").get("model_type"), str(folder / "config.json"))
    if not weights_only_bin:
        raise MobileloopError(
            f"{text_of(folder)} holds only pickled weights ({found[0]}), which can run code when they are opened; "
            "--weights-only-bin reads them by PyTorch's weights-only loader in a process of its own."
        )
    view, notes = converted(folder, tell)
    with named(view, str(folder)):
        loaded = load_folder(view)
    return _called(replace(loaded, source=str(folder), notes=(*notes, *loaded.notes)), folder.resolve().name)


def _check_files(folder: Path) -> None:
    """Raise MobileloopError where something else than a file has the name of one of a model's files.

    A link that leads nowhere would be taken for a file that is missing, and a pipe is waited for.
    """
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise MobileloopError(f"{text_of(folder)} cannot be read: {error.strerror}.") from None
    for path in found:
        if path.suffix not in _MODEL_FILES or path.is_file():
            continue
        what = "a folder" if path.is_dir() else "a pipe or a device" if path.exists() else "a link that leads nowhere"
        raise MobileloopError(f"{text_of(path)} is {what}, but a file was expected; download it again.")


def _here(loaded: Checkpoint) -> Checkpoint:
    """A file's name may not be text, and what an artifact says of its model is."""
    _check_values(loaded)
    return _called(loaded, loaded.config.name)


def _check_values(loaded: Checkpoint) -> None:
    """Raise MobileloopError where a weight is no number, or the token before every prompt is none."""
    for name, tensor in loaded.tensors.items():
        quantized = isinstance(tensor, QuantTensor)
        parts = (tensor.codes, tensor.scale, tensor.minimum) if isinstance(tensor, QuantTensor) else (tensor,)
        floats = [part for part in parts if part is not None and part.dtype.kind == "f"]
        with np.errstate(invalid="ignore"):  # of an infinity and its opposite
            finite = all(np.isfinite(part.sum(dtype=np.float64)) for part in floats)
        if not finite:
            what = "a scale" if quantized else "a value"
            raise MobileloopError(
                f"{loaded.source}: the tensor {name} holds {what} that is not finite (NaN or infinity); the training "
                "or the download went wrong: take another revision."
            )
    first = loaded.tokenizer.bos_id if loaded.tokenizer else None
    if first is not None and not 0 <= first < loaded.config.vocab_size:
        raise MobileloopError(
            f"{loaded.source} names the token {first} as bos, beyond the {loaded.config.vocab_size} of the model; "
            "correct the file."
        )


def _called(loaded: Checkpoint, name: str) -> Checkpoint:
    return replace(
        loaded,
        config=loaded.config.model_copy(update={"name": visible(name)}),
        source=text_of(loaded.source),
        notes=tuple(visible(note) for note in loaded.notes),
    )


def _published(loaded: Checkpoint, snapshot: Snapshot) -> Checkpoint:
    """The model of a snapshot, whose folder is named after a commit."""
    _check_values(loaded)
    notes = (*snapshot.notes, *loaded.notes)
    named_after = replace(loaded, source=snapshot.label, published=snapshot.label, notes=notes)
    return _called(named_after, snapshot.title)
