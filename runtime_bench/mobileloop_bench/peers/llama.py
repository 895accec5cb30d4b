"""llama.cpp, from the source that llama-cpp-python carries, timed by its own llama-bench.

Two builds of its processor library where this is x86: `avx2` has what our engine may use (AVX2, FMA, F16C, and AVX-VNNI
where the processor has it; our rule is no instruction set that cannot be checked everywhere) and is the like-for-like
column; `native` is whatever the compiler makes of this very processor. One llama-bench serves both, so that nothing
but the kernels differs.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mobileloop.errors import MobileloopError
from mobileloop.files import file_sha256
from mobileloop_bench.machine.probe import probe
from mobileloop_bench.measure.process import Command, Entry, Series, Turn
from mobileloop_bench.peers import builds as stores
from mobileloop_bench.peers import weights
from mobileloop_bench.peers.builds import PINS, Say, Store, run_logged
from mobileloop_bench.peers.contestant import BUILD, ONCE, Contestant, Repetition, Source, worker

PACKAGE = "llama-cpp-python"
SOURCE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SOURCE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # of what `mobileloop fetch` fetches
HOW = f"build it once with: {BUILD}"
RUNS = ("Q4_0", "Q4_1", "Q8_0")  # what our artifacts hold without loss
TOOLS = ("llama-bench", "llama-quantize")
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",  # it would be downloaded
    "-DLLAMA_OPENSSL=OFF",
    "-DGGML_CCACHE=OFF",
)
# AMX is a separate matrix unit; where a hypervisor names it and then refuses it, the native build goes without.
_NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
SMOKE_SECONDS = 300


def gguf(store: Store) -> Path:
    """The pure Q4_0 file, embedding included."""
    return store.models / "SmolLM2-135M-Instruct.Q4_0.gguf"


def source(store: Store) -> Path:
    """The published file that everything is made from."""
    return store.models / SOURCE


def variants() -> tuple[str, ...]:
    """The builds of this machine; the first one also has the tools."""
    return ("avx2", "native") if platform.machine() in ("x86_64", "AMD64") else ("native",)


class Llama(Contestant):
    """One build of llama.cpp."""

    def __init__(self, variant: str) -> None:
        self.variant = variant
        # One class, two contestants: the plain name is the build with the instructions that our engine may use.
        self.name = "llama.cpp" if variant == variants()[0] else f"llama.cpp-{variant}"  # type: ignore[misc]

    def missing(self, store: Store) -> str | None:
        if not _stamp(store, self.variant).is_file() or not gguf(store).is_file():
            return f"not built; {HOW}"
        return None

    def build(self, store: Store, say: Say) -> None:
        folder = store.of(PACKAGE)
        if not (folder / "vendor").is_dir():
            say(f"downloading {PINS[PACKAGE]} (77 MB)")
            archive = stores.download(PINS[PACKAGE], store.folder / "downloads")
            with stores.made_whole(folder) as fresh:
                stores.unpack(archive, fresh)
        if self.variant == variants()[0]:
            self._compile(store, say, TOOLS)
            _make_gguf(store, say)
        elif not _stamp(store, self.variant).is_file():
            self._compile(store, say, ("ggml-cpu",))

    def _compile(self, store: Store, say: Say, targets: Sequence[str]) -> None:
        stamp = _stamp(store, self.variant)
        if stamp.is_file():
            return
        say(f"building llama.cpp, {self.variant} (some minutes)")
        flags, notes = _flags(self.variant), ""
        _build_tree(store, self.variant, flags, targets)
        if self.variant == "native" and gguf(store).is_file() and not self._runs(store):
            say("this machine refuses an instruction of the native build; building it again without AMX")
            notes = "without AMX, which faults on this machine"
            shutil.rmtree(_tree(store, self.variant))
            without = [*flags, f"-DCMAKE_C_FLAGS={_NO_AMX}", f"-DCMAKE_CXX_FLAGS={_NO_AMX}"]
            _build_tree(store, self.variant, without, targets)
            if not self._runs(store):
                raise MobileloopError("the native build of llama.cpp does not run on this machine.")
        stamp.write_text(json.dumps({"flags": flags, "notes": notes}) + "\n", encoding="utf-8")

    def _runs(self, store: Store) -> bool:
        """Whether a short run ends well; the threads and the sizes that are timed, so the same kernels."""
        options = ["-p", "128", "-n", "2", "-t", "2", "-r", "1"]
        command = self._bench(store, gguf(store), options, lambda text: {})
        try:
            done = subprocess.run(
                list(command.argv),
                env={**os.environ, **command.environment},
                capture_output=True,
                timeout=SMOKE_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0

    def versions(self, store: Store) -> dict[str, str]:
        found = {PACKAGE: PINS[PACKAGE].version}
        stamp = _stamp(store, self.variant)
        if stamp.is_file():
            built = json.loads(stamp.read_text(encoding="utf-8"))
            found["flags"] = " ".join(built["flags"])
            if built["notes"]:
                found["note"] = built["notes"]
        return found

    def entry(self, store: Store, source: Source, repetition: Repetition) -> Entry:
        if not _stamp(store, self.variant).is_file():
            raise MobileloopError(f"not built; {HOW}.")
        path, made = _weights(store, source)
        held = weights.stored(path)
        if not held.types <= set(RUNS):
            raise MobileloopError(
                f"{path.name} holds {', '.join(sorted(held.types - set(RUNS)))}, which is not what our artifacts hold; "
                f"llama.cpp takes part with {', '.join(RUNS)}."
            )
        path, how = _repeated(store, source, path, repetition)
        made, held = f"{made}{how}", weights.stored(path)
        looped = repetition.whole_stack
        versions = self.versions(store)
        weights_told = f"{path.name}, {'+'.join(sorted(held.types))}, {made}"
        flags = [versions["flags"], versions.get("note", ""), "llama-bench -r 1, KV float16", weights_told]

        def commands(turn: Turn) -> list[Command]:
            options = ["-r", "1", "-t", str(turn.threads)]
            prompt, tokens = str(turn.prompt_tokens), str(turn.decode_tokens)
            prefill = ["-p", prompt, "-n", "0", "-d", str(turn.depth), *options]
            decode = ["-p", "0", "-n", tokens, "-d", str(turn.depth + turn.prompt_tokens), *options]
            return [
                self._bench(store, path, prefill, lambda text: {"prefill_ms": parse_times(text, 1)}),
                self._bench(store, path, decode, lambda text: {"decode_ms": parse_times(text, turn.decode_tokens)}),
            ]

        return Entry(
            version=f"{PACKAGE} {versions[PACKAGE]}",
            flags="; ".join(flag for flag in flags if flag),
            path=path,
            quantization="+".join(sorted(held.types)),
            commands=commands,
            whole_decodes=True,
            unique_bytes=held.unique_bytes,
            executed_bytes=held.executed_bytes(repetition.times) if looped else None,
            schedule=f"all:{repetition.times}" if looped else None,
            kv_bits=16,
            greedy=lambda prompt, count: self._greedy(store, path, prompt, count),
        )

    def _greedy(self, store: Store, path: Path, prompt: Sequence[int], count: int) -> Command:
        return worker(
            "llama",
            {"folder": str(store.of(PACKAGE)), "path": str(path), "prompt_ids": list(prompt), "count": count},
            LLAMA_CPP_LIB_PATH=str(_libraries(store, variants()[0])),
            LD_LIBRARY_PATH=_library_path(store, self.variant),
        )

    def _bench(self, store: Store, path: Path, options: Sequence[str], parse: Callable[[str], Series]) -> Command:
        tool = _libraries(store, variants()[0]) / "llama-bench"
        argv = [str(tool), "-m", str(path), *options, "-o", "json"]
        environment = {"LD_LIBRARY_PATH": _library_path(store, self.variant)}
        return Command(argv, environment=environment, parse=parse)


def parse_times(text: str, tokens: int) -> list[float]:
    """Milliseconds of every repetition of a llama-bench run with one test, over `tokens`.

    Raises:
        ValueError: where the output is not that.
    """
    start = text.find("[")
    tests = json.loads(text[start:]) if start >= 0 else []
    if not isinstance(tests, list) or len(tests) != 1 or not tests[0].get("samples_ns"):
        raise ValueError("llama-bench printed no samples")
    return [float(ns) / 1e6 / tokens for ns in tests[0]["samples_ns"]]


def is_smollm2(store: Store, sha256: str) -> bool:
    """Whether these are the weights that all peers are built from: the published file, or the Q4_0 made of it."""
    return sha256 == SOURCE_SHA256 or (gguf(store).is_file() and sha256 == file_sha256(gguf(store)))


def check_smollm2(name: str, store: Store, from_: Source, repetition: Repetition) -> None:
    """Raise MobileloopError where a peer that is built from SmolLM2 alone has no file of a source."""
    if repetition != ONCE:
        raise MobileloopError(f"{name} is built with every block once; no file of it runs {repetition}.")
    if not is_smollm2(store, from_.sha256):
        raise MobileloopError(f"{name} is built from {source(store).name} alone, not from {from_.name}.")


def _weights(store: Store, source: Source) -> tuple[Path, str]:
    """The file that runs, and where it is from: a published mixture of types is not what llama.cpp is fastest with."""
    if is_smollm2(store, source.sha256):
        if not gguf(store).is_file():
            raise MobileloopError(f"not built; {HOW}.")
        return gguf(store), "made by llama-quantize --pure"
    if source.path is None:
        raise MobileloopError(f"{source.name} is not beside the artifact; say where it is with --source.")
    if source.path.suffix != ".gguf":
        raise MobileloopError(f"llama.cpp reads .gguf files, and the artifact was exported from {source.name}.")
    return source.path, "the file that the artifact was exported from"


def _repeated(store: Store, source: Source, path: Path, repetition: Repetition) -> tuple[Path, str]:
    """The file that applies blocks so often, made where it is missing, and what its flags say of it.

    llama.cpp loops over the whole stack by itself; a block that is to run twice in a row must be written twice.
    """
    if repetition == ONCE:
        return path, ""
    ours, times = path == gguf(store), repetition.times
    if repetition.whole_stack:
        kind = f"looped-{times}{'-normed' if repetition.loop_end_norm else ''}"
        told = f", with num_loops {times} for llama.cpp's own loop"
    elif times == 2:
        kind, told = "twice", ", every block written twice"
    else:
        raise MobileloopError(
            f"llama.cpp needs a file with every block written {times} times, of which only 2 is made."
        )
    made = store.models / f"{path.stem}{'' if ours else f'-{source.sha256[:12]}'}-{kind}.gguf"
    if not made.is_file():
        if repetition.whole_stack:
            weights.write_looped(path, made, times, repetition.loop_end_norm)
        else:
            weights.write_unrolled(path, made, times)
    return made, told


def _tree(store: Store, variant: str) -> Path:
    return store.of(PACKAGE) / f"build-{variant}"


def _libraries(store: Store, variant: str) -> Path:
    return _tree(store, variant) / "bin"


def _library_path(store: Store, variant: str) -> str:
    """The loader takes the kernels from the variant's folder and the rest from where the tools were built."""
    return os.pathsep.join([str(_libraries(store, variant)), str(_libraries(store, variants()[0]))])


def _stamp(store: Store, variant: str) -> Path:
    return _tree(store, variant) / "mobileloop-built.json"


def _flags(variant: str) -> list[str]:
    if variant == "native":
        return ["-DGGML_NATIVE=ON"]
    flags = ["-DGGML_NATIVE=OFF", "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON"]
    if "avx_vnni" in (probe().instruction_sets or []):
        flags.append("-DGGML_AVX_VNNI=ON")
    return flags


def _build_tree(store: Store, variant: str, flags: Sequence[str], targets: Sequence[str]) -> None:
    tree, log = _tree(store, variant), store.of(PACKAGE) / f"build-{variant}.log"
    vendored = store.of(PACKAGE) / "vendor" / "llama.cpp"
    configure = [_program("cmake"), "-S", str(vendored), "-B", str(tree), "-G", "Ninja"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={_program('ninja')}", *_OPTIONS, *flags]
    run_logged(configure, log, "llama.cpp could not be configured")
    run_logged([_program("ninja"), "-C", str(tree), *targets], log, "llama.cpp could not be built")


def _program(name: str) -> str:
    """A tool beside this Python (the `dev` extra installs it there) or on the PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        raise MobileloopError(f"{name} is missing; install it with: pip install {name}.")
    return found


def _make_gguf(store: Store, say: Say) -> None:
    if gguf(store).is_file():
        return
    if not source(store).is_file():
        say("fetching SmolLM2-135M-Instruct (93 MB)")
        fetch = [sys.executable, "-m", "mobileloop.cli", "fetch", "-o", str(source(store))]
        run_logged(fetch, store.folder / "fetch.log", "the model could not be fetched")
    say("quantizing it to pure Q4_0")
    tool = _libraries(store, variants()[0]) / "llama-quantize"
    partial = gguf(store).with_suffix(".part")
    run_logged(
        [str(tool), "--allow-requantize", "--pure", str(source(store)), str(partial), "Q4_0"],
        store.folder / "quantize.log",
        "llama-quantize failed",
    )
    partial.replace(gguf(store))


# -- in the child process ------------------------------------------------------------------------------


def work(request: dict[str, Any]) -> dict[str, list[float]]:
    """A greedy continuation through libllama."""
    session = _Session(Path(request["folder"]), request["path"])
    tokens = list(request["prompt_ids"])
    found: list[float] = []
    best = session.evaluate(tokens)
    for _ in range(request["count"]):
        found.append(float(best))
        best = session.evaluate([best])
    return {"tokens": found}


class _Session:
    """A context of libllama through the structures that llama-cpp-python declares."""

    def __init__(self, folder: Path, path: str) -> None:
        # The package's own __init__ imports its high-level interface and that one's dependencies.
        package = types.ModuleType("llama_cpp")
        package.__path__ = [str(folder / "llama_cpp")]
        sys.modules["llama_cpp"] = package
        self._api: Any = importlib.import_module("llama_cpp.llama_cpp")
        self._api.llama_backend_init()
        self._model = self._api.llama_model_load_from_file(path.encode(), self._api.llama_model_default_params())
        if not self._model:
            raise MobileloopError(f"llama.cpp could not load {path}.")
        parameters = self._api.llama_context_default_params()
        parameters.n_ctx = weights.CONTEXT
        parameters.n_threads = parameters.n_threads_batch = 1  # several would spin for each other on a busy machine
        self._context = self._api.llama_init_from_model(self._model, parameters)
        vocabulary = self._api.llama_model_get_vocab(self._model)
        self._size = int(self._api.llama_vocab_n_tokens(vocabulary))

    def evaluate(self, tokens: Sequence[int]) -> int:
        """The best next token behind what was evaluated so far and `tokens`."""
        import numpy as np

        ids = (self._api.llama_token * len(tokens))(*tokens)
        if self._api.llama_decode(self._context, self._api.llama_batch_get_one(ids, len(tokens))) != 0:
            raise MobileloopError("llama_decode failed.")
        pointer = self._api.llama_get_logits_ith(self._context, -1)
        address = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float))
        return int(np.argmax(np.ctypeslib.as_array(address, shape=(self._size,))))
