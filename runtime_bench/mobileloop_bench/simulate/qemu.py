"""What an emulated 64-bit ARM processor counts: instructions, bytes, and misses of simulated caches.

QEMU's user-mode emulator runs the cross-compiled engine under a plugin of ours (engine/arm/counting_plugin.c). Nothing
here is a time. Needed: a cross compiler for aarch64, qemu-aarch64 with plugin support, a C compiler, and a checkout.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mobileloop.errors import MobileloopError
from mobileloop_bench.simulate.caches import Cache

ENGINE = Path(__file__).resolve().parents[2] / "engine"
FEATURES = "fp asimd asimddp i8mm"
SECONDS = 3600  # no run takes that long; one that does hangs


@dataclass(frozen=True)
class Counts:
    """What the plugin counted between two marks.

    Attributes:
        instructions: by core; waiting in a barrier counts too, so with several threads it is not repeatable.
        bytes: read and written by kind of memory: `weights`, `kv` and `other`.
        misses: by level (`l1`, `l2`, `last`; those that were simulated) and kind, in lines of 64 bytes.
        kernels: the kernel set that ran; empty for other programs.
    """

    instructions: tuple[int, ...]
    bytes: Mapping[str, int]
    misses: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    kernels: str = ""


def needed(name: str, package: str, override: str | None = None) -> str:
    """Path of a program, from the environment variable `override`, the path, or beside the interpreter.

    Raises:
        MobileloopError: where it is missing, with the package that has it.
    """
    wanted = (override and os.environ.get(override)) or name
    found = shutil.which(wanted) or shutil.which(wanted, path=str(Path(sys.executable).parent))
    if not found:
        way_out = f", or name another by {override}" if override else ""
        raise MobileloopError(
            f"'{wanted}' was not found, and counting on an emulated ARM needs it; on Debian and Ubuntu: "
            f"apt-get install {package}{way_out}."
        )
    return found


def run(*command: str | int | Path, environment: Mapping[str, str] | None = None) -> str:
    """Standard output of a program.

    Raises:
        MobileloopError: where it fails, with the end of what it said.
    """
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={**os.environ, **environment} if environment else None,
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise MobileloopError(f"'{Path(str(command[0])).name}' ended with code {done.returncode}: {said}")
    return done.stdout


class Emulator:
    """The cross-compiled programs and the emulator that counts them; building happens in `folder`, once."""

    def __init__(self, folder: Path) -> None:
        if not (ENGINE / "arm").is_dir():
            raise MobileloopError(
                f"the engine's sources are not at {ENGINE}: counting needs a checkout of mobileloop, not a wheel."
            )
        self.folder = folder
        self.qemu = needed("qemu-aarch64", "qemu-user", "MOBILELOOP_QEMU")
        self.compiler = needed("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu", "MOBILELOOP_ARM_CXX")
        folder.mkdir(parents=True, exist_ok=True)
        self.plugin = self._build_plugin()
        self.program = self._build_engine("evidence")

    def count(
        self,
        *arguments: str | int | Path,
        program: Path | None = None,
        l1: Cache | None = None,
        l2: Cache | None = None,
        last: Cache | None = None,
        kernels: str | None = None,
        processor: str = "max",
        root: Path | None = None,
    ) -> Counts:
        """Run a program on the emulated processor and return what it marked to be counted.

        Args:
            arguments: of the program; `evidence.cpp` says what it takes.
            program: another one than `evidence`.
            l1: of every core; 64 KiB in 4 ways where not given. `l2` and `last` are not simulated where not given.
            l2: private, or shared by neighbours.
            last: shared by all.
            kernels: kernel set to use instead of the processor's best.
            processor: QEMU's name of it.
            root: where a dynamic program finds its libraries.

        Raises:
            MobileloopError: where the program fails, or counts nothing.
        """
        out = self.folder / f"counts-{os.getpid()}.json"
        options = [f"out={out}", f"l1={(l1 or Cache(64 << 10, 4)).option()}"]
        options += [f"{name}={cache.option()}" for name, cache in (("l2", l2), ("ll", last)) if cache]
        said = run(
            self.qemu,
            *("-cpu", processor, "-plugin", ",".join([str(self.plugin), *options])),
            *(("-L", root) if root else ()),
            program or self.program,
            *arguments,
            environment={"MOBILELOOP_KERNELS": kernels or ""},
        )
        lines = out.read_text(encoding="ascii").splitlines()
        out.unlink()
        if len(lines) != 1:
            raise MobileloopError(f"'{(program or self.program).name}' reported {len(lines)} counts instead of one.")
        counted = json.loads(lines[0])
        return Counts(
            instructions=tuple(counted["instructions_by_core"]),
            bytes=counted["bytes"],
            misses={name: counted[f"{name}_misses"] for name in ("l1", "l2", "last") if f"{name}_misses" in counted},
            kernels=said.split(" of ")[0].strip() if " of " in said else "",
        )

    def described(self) -> dict[str, str]:
        """What the figures come from."""
        return {
            "note": "simulated misses and counted instructions of an emulated processor; no phone, no time",
            "emulator": run(self.qemu, "--version").splitlines()[0],
            "compiler": run(self.compiler, "--version").splitlines()[0],
        }

    def build_ggml(self, source: Path) -> Path:
        """llama.cpp's ARM kernels of Q4_0 as a program of their own.

        Args:
            source: a llama.cpp source tree, such as `vendor/llama.cpp` of llama-cpp-python's source archive.

        Raises:
            MobileloopError: where the tree is not one, or does not build.
        """
        ggml = source / "ggml"
        files = [ggml / "src/ggml-cpu/arch/arm" / name for name in ("repack.cpp", "quants.c")]
        if not all(file.is_file() for file in files):
            raise MobileloopError(f"{source} is not a source tree of llama.cpp: it has no {files[0]}.")
        program, objects = self.folder / "ggml_product", []
        includes = [f"-I{ggml / part}" for part in ("include", "src", "src/ggml-cpu")]
        flags = ["-O3", "-DNDEBUG", "-D_GNU_SOURCE", "-w", "-ffunction-sections", "-fdata-sections"]
        c_compiler = self.compiler.replace("g++", "gcc")
        for file in files:
            built = self.folder / f"ggml-{file.stem}.o"
            compiler = c_compiler if file.suffix == ".c" else self.compiler
            run(compiler, *flags, "-march=armv8.2-a+dotprod+i8mm", *includes, "-c", file, "-o", built)
            objects.append(built)
        own = ENGINE / "arm" / "ggml_product.cpp"
        run(self.compiler, "-O2", "-static", "-Wl,--gc-sections", own, *objects, "-o", program)
        return program

    def build_onnxruntime(self, library: Path, headers: Path) -> Path:
        """A program that runs a model with ONNX Runtime's own kernels; needs `guest_root` to run.

        Args:
            library: `libonnxruntime.so.*` of an aarch64 wheel of onnxruntime (in `onnxruntime/capi`).
            headers: folder of `onnxruntime_c_api.h` (engine/onnxruntime/fetch_headers.py).

        Raises:
            MobileloopError: where either is missing, or the program does not build.
        """
        for path in (library, headers / "onnxruntime_c_api.h"):
            if not path.is_file():
                raise MobileloopError(f"{path} is not there; ONNX Runtime's products cannot be counted without it.")
        linked = self.folder / "onnxruntime-aarch64" / "libonnxruntime.so.1"  # the name that programs ask for
        linked.parent.mkdir(exist_ok=True)
        shutil.copyfile(library, linked)
        program, own = self.folder / "onnxruntime_product", ENGINE / "arm" / "onnxruntime_product.cpp"
        flags = ["-std=c++17", "-O2", f"-isystem{headers}", f"-Wl,-rpath,{linked.parent}"]
        run(self.compiler, *flags, own, linked, "-o", program)
        return program

    def guest_root(self) -> Path:
        """The cross compiler's libraries, beside an ARM processor's /proc/cpuinfo: the host's would confuse a guest."""
        root = self.folder / "root"
        libraries = Path(run(self.compiler, "-print-file-name=ld-linux-aarch64.so.1").strip()).resolve().parent
        cores = root / "sys/devices/system/cpu"
        for folder in (root / "proc", cores):
            folder.mkdir(parents=True, exist_ok=True)
        if not (root / "lib").is_symlink():
            (root / "lib").symlink_to(libraries)
        lines = ["processor\t: 0", f"Features\t: {FEATURES}", "CPU implementer\t: 0x41", "CPU architecture: 8"]
        lines += ["CPU variant\t: 0x0", "CPU part\t: 0xd47", "CPU revision\t: 0"]
        (root / "proc/cpuinfo").write_text("\n".join(lines) + "\n", encoding="ascii")
        for name in ("possible", "present"):
            (cores / name).write_text("0\n", encoding="ascii")
        return root

    def _build_plugin(self) -> Path:
        plugin = self.folder / "counting_plugin.so"
        version = re.search(r"version (\d+)", run(self.qemu, "--version"))
        spoken = 2 if version and int(version[1]) >= 9 else 1
        built = plugin.with_suffix(f".{os.getpid()}")
        run(
            *(os.environ.get("CC") or needed("cc", "gcc"), "-std=gnu11", "-O2", "-shared", "-fPIC", "-pthread"),
            *(f"-DML_PLUGIN_VERSION={spoken}", ENGINE / "arm" / "counting_plugin.c", "-o", built),
        )
        built.replace(plugin)  # an emulator of another command may have loaded the one that was there
        return plugin

    def _build_engine(self, target: str) -> Path:
        options = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
        options += [f"-DCMAKE_CXX_COMPILER={self.compiler}", "-DCMAKE_EXE_LINKER_FLAGS=-static"]
        return build(self.folder / "engine-aarch64", target, options)


def build(folder: Path, target: str, options: Sequence[str] = ()) -> Path:
    """Configure the engine in `folder` and build one program of it; another command that does so is waited for.

    Raises:
        MobileloopError: where CMake is missing or fails.
    """
    cmake = needed("cmake", "cmake")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    if (folder / "CMakeCache.txt").exists():
        generator = []  # it stays what it was
    off = ["-DML_EVIDENCE=ON", "-DML_EXECUTORCH_DIR=none", "-DML_ONNXRUNTIME_HEADERS=none"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # CMake writes into the folder even where there is nothing to build
        run(cmake, "-S", ENGINE, "-B", folder, *generator, *off, *options)
        run(cmake, "--build", folder, "--target", target, "--parallel", str(os.cpu_count() or 1))
    return folder / target
