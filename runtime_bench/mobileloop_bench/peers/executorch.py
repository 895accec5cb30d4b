"""Stock ExecuTorch: its own Llama, exported by its `export_llm` to XNNPACK as 8da4w in groups of 32.

Nothing of ours is in that program. The export takes about half an hour, so it is asked for by name and then kept.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from importlib import metadata, util
from pathlib import Path
from typing import Any

from mobileloop.errors import MobileloopError
from mobileloop.quiet import muted_stderr, quiet_imports
from mobileloop.runtimes.engine import read_info
from mobileloop_bench.measure.process import Command, Entry, Turn
from mobileloop_bench.measure.samples import quiet
from mobileloop_bench.peers import llama, weights
from mobileloop_bench.peers.builds import Say, Store, run_logged
from mobileloop_bench.peers.contestant import BUILD, Cell, Contestant, Repetition, Settings, Source, worker
from mobileloop_bench.peers.ours import artifact
from mobileloop_bench.peers.worker import WARM_UP_TOKENS, once, timed, tokens_of

OPTION = "--build-executorch"
# What its own documentation exports for the CPU; the embedding is 8-bit, and only one row of it is read per token.
_EXPORT = (
    "base.model_class=smollm2",
    "model.use_kv_cache=True",
    "model.use_sdpa_with_kv_cache=True",
    "model.dtype_override=fp32",
    "model.enable_dynamic_shape=True",
    "quantization.qmode=8da4w",
    "quantization.group_size=32",
    "quantization.embedding_quantize='8,32'",
    "backend.xnnpack.enabled=True",
    "backend.xnnpack.extended_ops=True",
    f"export.max_seq_length={weights.CONTEXT}",
    f"export.max_context_length={weights.CONTEXT}",
)


class Executorch(Contestant):
    """ExecuTorch with XNNPACK, driven by its Python bindings."""

    name, label = "executorch", "ExecuTorch XNNPACK 8da4w"

    def missing(self, store: Store) -> str | None:
        if util.find_spec("executorch") is None:
            return "executorch is not installed; install it with: pip install '.[executorch]'"
        return None if program(store).is_file() else f"not built; build it once with: {BUILD} {OPTION}"

    def build(self, store: Store, say: Say) -> None:
        if program(store).is_file():
            return
        say("exporting with ExecuTorch's export_llm (about half an hour)")
        # Its loader takes a "8da4w" anywhere in the checkpoint's path for a request to read it so.
        with tempfile.TemporaryDirectory(prefix="mobileloop-export-", dir=store.models) as folder:
            _write_checkpoint(llama.gguf(store), Path(folder) / "meta.pth", Path(folder) / "params.json")
            run_logged(
                export_command(Path(folder)),
                store.folder / "export_llm.log",
                "ExecuTorch's export_llm failed",
                {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
            )
            (Path(folder) / "model.pte").replace(program(store))

    def versions(self, store: Store) -> dict[str, str]:
        return {"executorch": metadata.version("executorch")}

    def cells(self, store: Store, settings: Settings) -> list[Cell]:
        request = {**settings.model_dump(), "path": str(program(store)), "task": "decode", "threads": 2}
        request["vocab_size"] = _vocab_size(store)
        return [Cell(self.name, "decode-2", worker("executorch", request))]

    def entry(self, store: Store, source: Source, repetition: Repetition) -> Entry:
        llama.check_smollm2(self.label, store, source, repetition)
        if (reason := self.missing(store)) is not None:
            raise MobileloopError(f"{reason}.")

        def commands(turn: Turn) -> list[Command]:
            return [worker("executorch", {**dataclasses.asdict(turn), "path": str(program(store)), "task": "bench"})]

        return Entry(
            version=self.versions(store)["executorch"],
            flags=f"XNNPACK; its export_llm's 8da4w in groups of 32, embedding 8-bit, from the floats of "
            f"{llama.gguf(store).name}",
            path=program(store),
            quantization="8da4w",
            commands=commands,
            context=weights.CONTEXT,
        )

    def greedy(self, store: Store, settings: Settings, prompt: Sequence[int]) -> dict[int, Command]:
        base = {**settings.model_dump(), "path": str(program(store)), "task": "greedy", "threads": 2}
        return {1: worker("executorch", {**base, "prompt_ids": list(prompt)})}


def export_command(folder: Path) -> list[str]:
    """`export_llm` on the checkpoint in a folder; the program is written there as model.pte, and nothing elsewhere."""
    options = [f"base.checkpoint={folder / 'meta.pth'}", f"base.params={folder / 'params.json'}"]
    # A name that ends in .pte is taken as the whole path, whatever the folder of outputs.
    options += [f"export.output_name={folder / 'model.pte'}", f"hydra.run.dir={folder / 'hydra'}"]
    return [sys.executable, "-m", "executorch.extension.llm.export.export_llm", *_EXPORT, *options]


def program(store: Store) -> Path:
    """The exported program of the installed version."""
    try:
        version = metadata.version("executorch")
    except metadata.PackageNotFoundError:
        version = "none"
    return store.models / f"executorch-{version}-xnnpack-8da4w.pte"


def _vocab_size(store: Store) -> int:

    return read_info(artifact(store)).config.vocab_size


def _write_checkpoint(gguf: Path, checkpoint: Path, parameters: Path) -> None:
    import torch

    tensors, params = weights.meta_weights(gguf)
    torch.save({name: torch.from_numpy(values) for name, values in tensors.items()}, str(checkpoint))
    parameters.write_text(json.dumps(params) + "\n", encoding="utf-8")


# -- in the child process ------------------------------------------------------------------------------


def work(request: dict[str, Any]) -> dict[str, list[float]]:
    """One cell, or one turn of a bench."""
    session = _Session(request["path"], request["threads"])
    if request["task"] == "bench":
        return _turn(session, request)
    if request["task"] == "greedy":
        best = session.evaluate(request["prompt_ids"], 0)
        found: list[float] = []
        for index in range(request["greedy_tokens"]):
            found.append(float(best))
            best = session.evaluate([best], len(request["prompt_ids"]) + index)
        return {"tokens": found}
    count, before = request["decode_tokens"], request["context_tokens"]
    tokens = tokens_of(request, request["vocab_size"], before + count)
    rates = []
    for turn in range(request["repeats"] + 1):
        session.evaluate(tokens[:before], 0)

        def run() -> None:
            for index, token in enumerate(tokens[before:]):
                session.step(token, before + index)

        seconds = timed(run)
        if turn:
            rates.append(count / seconds)
    return {"tokens_per_s": rates}


def _turn(session: _Session, request: dict[str, Any]) -> dict[str, list[float]]:
    depth, prompt, count = (request[name] for name in ("depth", "prompt_tokens", "decode_tokens"))
    end = depth + prompt
    tokens = tokens_of(request, request["vocab_size"], end + count)
    session.evaluate(tokens[:end], 0)
    for index, token in enumerate(tokens[end : end + WARM_UP_TOKENS]):
        session.step(token, end + index)
    if depth:
        session.evaluate(tokens[:depth], 0)
    with quiet():
        prefill_ms = once(lambda: session.evaluate(tokens[depth:end], depth))
        decode_ms = [once(partial(session.step, tokens[at], at)) for at in range(end, end + count)]
    return {"prefill_ms": [prefill_ms], "decode_ms": decode_ms}


class _Session:
    """The program's only method, with its KV cache inside; a position of 0 starts anew."""

    def __init__(self, path: str, threads: int) -> None:
        with quiet_imports(), muted_stderr():
            from executorch.extension.pybindings import portable_lib  # noqa: I001  (its operators come after it)
            from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401
            from executorch.kernels import quantized  # noqa: F401
            import torch

            self._torch: Any = torch
            portable_lib._unsafe_reset_threadpool(threads)
            self._module: Any = portable_lib._load_for_executorch(path)

    def step(self, token: int, position: int) -> Any:
        """Logits behind one token."""
        ids = self._torch.tensor([[token]], dtype=self._torch.long)
        return self._module.forward((ids, self._torch.tensor([position], dtype=self._torch.long)))[0]

    def evaluate(self, tokens: Sequence[int], position: int) -> int:
        """The best token behind `tokens`; a prompt goes in as one call."""
        ids = self._torch.tensor([list(tokens)], dtype=self._torch.long)
        logits = self._module.forward((ids, self._torch.tensor([position], dtype=self._torch.long)))[0]
        return int(logits.reshape(-1, logits.shape[-1])[-1].argmax())
