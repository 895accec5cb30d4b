"""Pickled checkpoints, on request: a child process converts each to safetensors once, in our cache.

No pickle is opened in this process. The cache is keyed by what is in the file, so that a copy of it is known.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from safetensors import safe_open

from mobileloop.errors import MobileloopError, library_errors, printable
from mobileloop.files import cache_path, file_sha256, read_json, text_of, written_whole

Tell = Callable[[str, float], None]

WHOLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"
_VERSION = 1  # of what the child makes of a file
_CHILD = "mobileloop.checkpoints.unpickle"
_ENDS = {
    signal.SIGXCPU: "took more time to be opened than a file of its size should",
    signal.SIGXFSZ: "holds tensors far larger than itself",
}


def pickles(folder: Path) -> list[str]:
    """Names of a folder's pickled weights, where it has no others."""
    if any(folder.glob("*.safetensors")) or (folder / "model.safetensors.index.json").exists():
        return []
    return sorted(path.name for path in folder.glob("pytorch_model*.bin"))


def converted(folder: Path, tell: Tell) -> tuple[Path, tuple[str, ...]]:
    """(a folder of links to the same files with safetensors for the pickled weights, notes); it lasts with the process.

    Raises:
        MobileloopError: for a file that asks for more than tensors, is damaged, or needs too much memory or time.
    """
    if find_spec("torch") is None:
        raise MobileloopError("--weights-only-bin needs PyTorch; install it with: pip install '.[torch]'.")
    shards, weight_map = _shards(folder)
    view = Path(tempfile.mkdtemp(prefix="mobileloop-"))
    atexit.register(shutil.rmtree, view, ignore_errors=True)
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith("pytorch_model"):
            (view / path.name).symlink_to(path.resolve())
    notes = [f"the weights are converted from {', '.join(shards[:3])}{' and more' if len(shards) > 3 else ''}"]
    names = _names(len(shards))
    for number, (shard, name) in enumerate(zip(shards, names, strict=True)):
        tell(f"converting {shard}", number / len(shards))
        path, told = _converted(folder / shard)
        (view / name).symlink_to(path.resolve())
        notes += [f"{shard}: {note}" for note in told]
    if weight_map is not None:
        renamed = dict(zip(shards, names, strict=True))
        index = {"weight_map": {key: renamed[shard] for key, shard in weight_map.items()}}
        (view / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return view, tuple(notes)


def _names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number + 1:05}-of-{count:05}.safetensors" for number in range(count)]


def _shards(folder: Path) -> tuple[list[str], dict[str, str] | None]:
    """(file names, the index); None for the index of a single file."""
    if (folder / WHOLE).is_file():
        return [WHOLE], None
    if not (folder / INDEX).is_file():
        raise MobileloopError(
            f"{text_of(folder)} has neither {WHOLE} nor {INDEX}, so what its other pickles are is not known "
            f"({', '.join(printable(name) for name in pickles(folder)[:5])})."
        )
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise MobileloopError(f"{text_of(folder / INDEX)} has no weight_map, so the shards are unknown.")
    for shard in weight_map.values():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.isprintable():
            raise MobileloopError(
                f"{text_of(folder / INDEX)} names the shard '{printable(str(shard))}' outside its folder, which is not "
                "followed."
            )
        if not (folder / shard).is_file():
            raise MobileloopError(f"{text_of(folder)} lacks the shard {shard}; the download may be incomplete.")
    shards = sorted(set(weight_map.values()))
    return shards, weight_map if len(shards) > 1 else None


def _converted(path: Path) -> tuple[Path, Sequence[str]]:
    """(safetensors of a pickled file, notes), from the cache where it is there."""
    try:
        digest = file_sha256(path)
        made = cache_path("weights-only-bin", f"{digest}-{_VERSION}.safetensors")
        made.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MobileloopError(f"{text_of(error.filename or path)} cannot be used: {error.strerror}.") from None
    if not made.is_file():
        with written_whole(made) as temporary:
            _run(path, temporary)
    with library_errors(str(made), "delete it, and it is made again"), safe_open(str(made), framework="np") as stored:
        return made, json.loads((stored.metadata() or {}).get("notes", "[]"))


def _run(path: Path, out: Path) -> None:
    """The child process, without a network and with bounds on what it may use."""
    shown, size = text_of(path), path.stat().st_size
    seconds = 120 + size / 5e6
    with tempfile.TemporaryDirectory(prefix="mobileloop-") as home:
        # The library opens no name that is not UTF-8.
        Path(home, "checkpoint").symlink_to(path.resolve())
        Path(home, "out").symlink_to(out.resolve())
        command = [sys.executable, "-m", _CHILD, f"{home}/checkpoint", f"{home}/out"]
        try:
            done = subprocess.run(
                command,
                cwd=home,
                env=_environment(home),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise MobileloopError(f"{shown} was not opened within {seconds:.0f} s; it is refused.") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not ("notes" in answer or "refused" in answer):
        why = _ENDS.get(signal.Signals(-done.returncode)) if -done.returncode in set(signal.Signals) else None
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        why = why or f"cannot be opened ({printable(last[0]) if last else f'the loader ended with {done.returncode}'})"
        raise MobileloopError(f"{shown} {why}; it is refused.")
    if "refused" in answer:
        raise MobileloopError(f"{shown} {answer['refused']}; it is refused.")


def _environment(home: str) -> dict[str, str]:
    """What a Python with PyTorch needs to start, and nothing of the user's: no token, no proxy, no settings."""
    found = {"HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    found["PYTHONPATH"] = os.pathsep.join(os.path.abspath(one) for one in sys.path if one)
    found.update({name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ})
    return found
