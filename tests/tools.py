"""What the tests use beside Python and a C++ compiler, and how to install it: `make test-tools`.

Only the standard library is imported, so that it runs before anything is installed. The tests themselves never install.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

APT = ("apt-get", "install", "-y", "-qq", "--no-install-recommends")


@dataclass(frozen=True)
class Tool:
    """One thing that tests are skipped without.

    Attributes:
        packages: of Debian and Ubuntu.
        programs: any one of them is enough; a skip's reason names one, which is how the table finds the package.
        purpose: what is tested with it.
    """

    packages: tuple[str, ...]
    programs: tuple[str, ...]
    purpose: str

    def there(self) -> bool:
        """Whether nothing has to be installed."""
        return any(shutil.which(program) for program in self.programs)


class Fuzzer(Tool):
    """libFuzzer and the sanitizers of clang: a library of the compiler's own version, not a program."""

    def there(self) -> bool:
        """Whether clang links it."""
        compiler = shutil.which("clang++")
        if not compiler:
            return False
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.cpp"
            source.write_text('extern "C" int LLVMFuzzerTestOneInput(const char *, unsigned long) { return 0; }\n')
            command = [compiler, "-fsanitize=fuzzer,address,undefined", str(source), "-o", str(source.with_suffix(""))]
            return subprocess.run(command, capture_output=True, check=False).returncode == 0


TOOLS = (
    Tool(
        ("chromium", "fonts-liberation"),
        ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
        "the report in a browser",
    ),
    Tool(("qemu-user",), ("qemu-aarch64", "qemu-aarch64-static"), "the ARM kernels, emulated"),
    Tool(("g++-aarch64-linux-gnu",), ("aarch64-linux-gnu-g++",), "building for 64-bit ARM"),
    Tool(("valgrind",), ("valgrind",), "simulated caches of this machine"),
    Tool(("likwid",), ("likwid-bench",), "bandwidth beside another tool's"),
    Tool(("clang",), ("clang++",), "the engine built by a second compiler"),
    Fuzzer(("libclang-rt-dev",), ("libFuzzer",), "fuzzing guided by coverage"),
)


def packages(missing: list[Tool], depends: Callable[[str], str]) -> list[str]:
    """Names of the packages to install.

    Args:
        depends: `apt-cache depends` of one package; the library of clang carries the version of the default clang.
    """
    names = [name for tool in missing for name in tool.packages]
    if "libclang-rt-dev" in names:
        version = re.search(r"Depends: clang-(\d+)", depends("clang"))
        if version:
            names[names.index("libclang-rt-dev")] = f"libclang-rt-{version[1]}-dev"
    return names


def _depends(package: str) -> str:
    return subprocess.run(["apt-cache", "depends", package], capture_output=True, text=True, check=False).stdout


def main() -> int:
    """Install what is missing; 0 where everything is there afterwards."""
    missing = [tool for tool in TOOLS if not tool.there()]
    if not missing:
        print("Every tool of the tests is installed.")
        return 0
    if not shutil.which("apt-get"):
        names = ", ".join(tool.programs[0] for tool in missing)
        print(f"The tests also use {names}; this is not Debian or Ubuntu: install them with your own package manager.")
        return 2
    root = () if os.geteuid() == 0 else ("sudo",)
    if root and not shutil.which("sudo"):
        print(f"Installing needs root and sudo is missing; as root: {' '.join((*APT, *packages(missing, _depends)))}")
        return 2
    quiet = (*root, "env", "DEBIAN_FRONTEND=noninteractive")
    updated = subprocess.run([*quiet, "apt-get", "update", "-qq"], check=False).returncode
    names = packages(missing, _depends)
    print(f"installing from the package index: {' '.join(names)}", flush=True)
    # The terminal's window sizes and other chatter of the package scripts stay out of a log that is read.
    done = subprocess.run([*quiet, *APT, *names], stdout=subprocess.DEVNULL, check=False).returncode
    lacking = [tool for tool in missing if not tool.there()]
    if lacking:
        why = "the package index could not be read" if updated else f"apt-get ended with code {done}"
        print(f"Still missing: {', '.join(tool.programs[0] for tool in lacking)} ({why}).")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
