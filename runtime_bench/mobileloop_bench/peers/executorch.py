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
from mobileloop_bench.measure.process import Command, Entry
from mobileloop_bench.measure.samples import quiet
from mobileloop_bench.peers import llama, weights
from mobileloop_bench.peers.builds import Say, Store, run_logged
from mobileloop_bench.peers.contestant import BUILD, Contestant, Repetition, Source, worker
from mobileloop_bench.peers.worker import WARM_UP_TOKENS, once, tokens_of

OPTION = "--executorch"
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

    name = "executorch"

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

    def entry(self, store: Store, source: Source, repetition: Repetition) -> Entry:
        llama.check_smollm2(self.name, store, source, repetition)
        if (reason := self.missing(store)) is not None:
            raise MobileloopError(f"{reason}.")

        def ask(**request: Any) -> Command:
            return worker("executorch", {"path": str(program(store)), **request})

        return Entry(
            version=self.versions(store)["executorch"],
            flags=f"XNNPACK; its export_llm's 8da4w in groups of 32, embedding 8-bit, from the floats of "
            f"{llama.gguf(store).name}",
            path=program(store),
            quantization="8da4w",
            commands=lambda turn: [ask(**dataclasses.asdict(turn))],
            greedy=lambda prompt, count: ask(prompt_ids=list(prompt), count=count, threads=1),
            context=weights.CONTEXT,
        )


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


def _write_checkpoint(gguf: Path, checkpoint: Path, parameters: Path) -> None:
    import torch

    tensors, params = weights.meta_weights(gguf)
    torch.save({name: torch.from_numpy(values) for name, values in tensors.items()}, str(checkpoint))
    parameters.write_text(json.dumps(params) + "\n", encoding="utf-8")


# -- in the child process ------------------------------------------------------------------------------


def work(request: dict[str, Any]) -> dict[str, list[float]]:
    """One turn of a bench, or a greedy continuation."""
    session = _Session(request["path"], request["threads"])
    if "prompt_ids" not in request:
        return _turn(session, request)
    best = session.evaluate(request["prompt_ids"], 0)
    found: list[float] = []
    for index in range(request["count"]):
        found.append(float(best))
        best = session.evaluate([best], len(request["prompt_ids"]) + index)
    return {"tokens": found}


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
