"""Fetch the C headers of ONNX Runtime, which no Python package carries, for the build of our ONNX kernels.

    python runtime_bench/engine/onnxruntime/fetch_headers.py

They lie in a package of the npm registry that this machine is configured for, named here by version and SHA-256: 150 MB
are read, checked, and thrown away but for the headers and their license (MIT), which stay in the user's cache, where
CMakeLists.txt looks for them. Nothing else of the package is used. Only the standard library is needed.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from pathlib import Path
from typing import BinaryIO

PACKAGE, PACKAGE_VERSION = "com.github.asus4.onnxruntime", "0.4.9"
SHA256 = "e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d"
SIZE_BYTES = 149_786_233
ARCHIVE, LICENSE = "package/Plugins/Android/onnxruntime.aar", "package/LICENSE"
FOLDER = "onnxruntime-headers-1.29.0"  # as in CMakeLists.txt
MAIN_HEADER = "onnxruntime_c_api.h"
DEFAULT_REGISTRY = "https://registry.npmjs.org"
TIMEOUT_S = 30


class FetchError(Exception):
    """The headers cannot be had; the text is one clause that says why."""


def cache_folder() -> Path:
    """Where the headers are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mobileloop" / FOLDER


def registry() -> str:
    """The npm registry that this machine is configured for."""
    named = {name.lower(): value for name, value in os.environ.items()}.get("npm_config_registry")
    if not named and shutil.which("npm"):
        try:
            asked = subprocess.run(
                ["npm", "config", "get", "registry"], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
            )
            named = asked.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            named = None
    if not named or not named.startswith(("https://", "http://")):
        named = DEFAULT_REGISTRY
    return named.rstrip("/")


def download(url: str, to: BinaryIO, size: int = SIZE_BYTES, sha256: str = SHA256) -> None:
    """Copy `url` into `to`, and check that it is the file that was asked for.

    Raises:
        FetchError: where it cannot be reached, or is another file.
    """
    digest, read = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as stream:
            while chunk := stream.read(1 << 20):
                read += len(chunk)
                if read > size:
                    break
                digest.update(chunk)
                to.write(chunk)
    except (OSError, ValueError) as error:  # URLError is an OSError
        raise FetchError(f"{PACKAGE} {PACKAGE_VERSION} cannot be downloaded ({error})") from None
    if read != size or digest.hexdigest() != sha256:
        raise FetchError(f"the download of {PACKAGE} {PACKAGE_VERSION} is not the file of the known checksum")


def unpack(package: BinaryIO, folder: Path) -> None:
    """Write the headers of the package, and their license, into a new folder.

    Raises:
        FetchError: where the package does not hold them.
    """
    try:
        with tarfile.open(fileobj=package, mode="r:gz") as tar:
            archive, license_text = (_member(tar, name) for name in (ARCHIVE, LICENSE))
        with zipfile.ZipFile(io.BytesIO(archive)) as inner:
            headers = {name[8:]: inner.read(name) for name in inner.namelist() if name[:8] == "headers/" and name[8:]}
    except (tarfile.TarError, zipfile.BadZipFile, KeyError) as error:
        raise FetchError(f"{PACKAGE} {PACKAGE_VERSION} cannot be unpacked ({error})") from None
    if MAIN_HEADER not in headers or any("/" in name or "\\" in name for name in headers):
        raise FetchError(f"{PACKAGE} {PACKAGE_VERSION} holds other headers than expected")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        whole = Path(temporary) / folder.name
        whole.mkdir()
        for name, content in {**headers, "LICENSE": license_text}.items():
            (whole / name).write_bytes(content)
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run may have left
        whole.rename(folder)


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    stream = tar.extractfile(name)
    if stream is None:
        raise KeyError(f"{name} is no file")
    return stream.read()


def main() -> int:
    """Fetch what is not there; 0 when the headers are."""
    folder = cache_folder()
    if (folder / MAIN_HEADER).is_file():
        print(f"The headers of ONNX Runtime are in {folder}.")
        return 0
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder.parent) as package:
            print("fetching the headers of ONNX Runtime (150 MB are read, 1 MB is kept) ...", flush=True)
            download(f"{registry()}/{PACKAGE}/-/{PACKAGE}-{PACKAGE_VERSION}.tgz", package)
            package.seek(0)
            unpack(package, folder)
    except (FetchError, OSError) as error:
        print(
            f"The ONNX kernels are left out, because {error}; .onnx files run on onnxruntime alone. To try again: "
            "python runtime_bench/engine/onnxruntime/fetch_headers.py, then reinstall mobileloop.",
            file=sys.stderr,
        )
        return 1
    print(f"The headers of ONNX Runtime are in {folder}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
