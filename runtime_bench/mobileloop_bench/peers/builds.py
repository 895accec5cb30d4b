"""Where peers are built and kept, and the pinned packages they come from.

Nothing is built inside the source tree: a peer is a quarter of a gigabyte that survives `make clean`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobileloop.errors import MobileloopError
from mobileloop.files import cache_path, file_sha256

CACHE_VARIABLE = "MOBILELOOP_PEERS_CACHE"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Pin:
    """One package of PyPI at one version.

    Attributes:
        sha256: of every file of that version that may be fetched; a file with another hash is refused.
        source: take the source distribution rather than a wheel.
    """

    name: str
    version: str
    sha256: tuple[str, ...]
    source: bool = False

    def __str__(self) -> str:
        return f"{self.name}-{self.version}"


# Wheels differ by Python version, so those have a hash for each; there is no onnxruntime-genai 0.18 for Python 3.10.
PINS: Mapping[str, Pin] = {
    pin.name: pin
    for pin in (
        Pin(
            "llama-cpp-python",
            "0.3.36",
            ("832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",),
            source=True,
        ),
        Pin(
            "onnxruntime-genai",
            "0.18.0",
            (
                "af9e2a4efb447feea2cfa10e24aedef1e4f01635c00f6cca759ee13254ee27db",  # 3.11, x86-64
                "6df22d9d74a86409cf06f6af0045b999524941426dab6eba4f937ef2aed513a7",  # 3.12, x86-64
                "5e841f51315eba711ad60c2df1cd59332387fc1cf3708ce1d2320991a1479438",  # 3.13, x86-64
                "5cba84b83dcf658ebc3e124af98d6d0d3d3ccb40e9aedf7633486e95c9b7b713",  # 3.11, aarch64
                "8c5af57dac86f0d0d19dc205a21119d07b438d4389f75b793462a6d877a59adc",  # 3.12, aarch64
                "6423348b4bbeb3b0add66af04dea17ca8a9be229bf6946a9c460be3b589a1c64",  # 3.13, aarch64
            ),
        ),
        Pin("onnx-ir", "1.1.0", ("76cc313a788c073b75271c1b6abb172aaf90fcc6335ed40f9f3238b2064a2fa3",)),
    )
}


def default_folder() -> Path:
    """`$MOBILELOOP_PEERS_CACHE`, or mobileloop/peers in the user's cache folder."""
    told = os.environ.get(CACHE_VARIABLE)
    if told:
        return Path(told)
    return cache_path("peers")


@dataclass(frozen=True)
class Store:
    """The cache folder: one subfolder per peer and version, `models` for the files made from one GGUF."""

    folder: Path

    def of(self, pin: str) -> Path:
        """The folder of a pinned package."""
        return self.folder / str(PINS[pin])

    @property
    def models(self) -> Path:
        """Where model files are kept; made when it is missing.

        Raises:
            MobileloopError: where it cannot be made.
        """
        path = self.folder / "models"
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MobileloopError(
                f"{path} cannot be made ({error.strerror}); name another cache folder with {CACHE_VARIABLE}."
            ) from None
        return path


@contextlib.contextmanager
def made_whole(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well: a build cut short leaves nothing behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def download(pin: Pin, into: Path) -> Path:
    """Fetch a pinned package's file with pip and check its hash.

    A source distribution is not built to be fetched: pip only asks it for its metadata.

    Raises:
        MobileloopError: where pip fails, or the file is not one of those that were pinned.
    """
    into.mkdir(parents=True, exist_ok=True)
    options = ["-q", "--disable-pip-version-check", "--no-deps", "-d", str(into)]
    options += ["--no-binary", pin.name] if pin.source else ["--only-binary=:all:"]
    run_logged(
        [sys.executable, "-m", "pip", "download", *options, f"{pin.name}=={pin.version}"],
        into / "pip.log",
        f"pip could not download {pin}",
    )
    normalized = pin.name.replace("-", "_").lower()
    files = [path for path in into.iterdir() if path.name.replace("-", "_").lower().startswith(normalized)]
    for path in files:
        if file_sha256(path) in pin.sha256:
            return path
    raise MobileloopError(f"what pip downloaded for {pin} has another checksum than the pinned one; nothing is built.")


def unpack(archive: Path, into: Path) -> None:
    """Unpack a source distribution without its top folder, refusing members that would leave `into`."""
    with tarfile.open(archive) as stored:
        if not hasattr(tarfile, "data_filter"):
            raise MobileloopError("this Python cannot unpack an archive safely; use 3.10.12, 3.11.4 or newer.")
        for member in stored.getmembers():
            _, _, rest = member.name.partition("/")
            if rest:
                member.name = rest
                stored.extract(member, into, filter="data")


def run_logged(
    command: Sequence[str], log: Path, failure: str, environment: Mapping[str, str] | None = None, low: bool = True
) -> None:
    """Run a build step, its output in `log`.

    Args:
        command: what to run.
        log: gets both streams, appended.
        failure: the start of the sentence where it fails.
        environment: added to this process's.
        low: at low priority, so that a build does not spoil another measurement.

    Raises:
        MobileloopError: with the log's last line and the log's place.
    """
    if low and shutil.which("nice"):
        command = ["nice", "-n", "10", *command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        try:
            done = subprocess.run(
                list(command),
                stdout=stream,
                stderr=stream,
                stdin=subprocess.DEVNULL,
                check=False,
                env={**os.environ, **(environment or {})},
            )
        except OSError as error:
            raise MobileloopError(f"{failure}: {command[0]} does not start ({error.strerror}).") from None
    if done.returncode != 0:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        last = lines[-1].strip() if lines else f"exit code {done.returncode}"
        raise MobileloopError(f"{failure} ({last}); the whole output is in {log}.")
