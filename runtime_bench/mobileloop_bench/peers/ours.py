"""Our engine, driven from Python: the interpreter and the copy of the logits are in its times."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mobileloop
from mobileloop import runtimes
from mobileloop.process import memory_status
from mobileloop.runtimes import native
from mobileloop.runtimes.base import Session, available_threads
from mobileloop_bench.bandwidth.ceiling import working_set_bytes
from mobileloop_bench.bandwidth.memory import read_bandwidth
from mobileloop_bench.machine.probe import probe
from mobileloop_bench.measure.process import Command
from mobileloop_bench.peers import llama, weights
from mobileloop_bench.peers.builds import Say, Store
from mobileloop_bench.peers.contestant import Cell, Contestant, Settings, worker
from mobileloop_bench.peers.worker import timed, tokens_of

LOOPS = (1, 2, 4)
BANDWIDTH_SECONDS, BANDWIDTH_REPEATS = 0.3, 2
POLL_SECONDS = 0.001


def artifact(store: Store) -> Path:
    """Our file of the very weights that llama.cpp reads."""
    return store.models / "SmolLM2-135M-Instruct.Q4_0.safetensors"


class Ours(Contestant):
    """The engine of this checkout."""

    name, label = "ours", "mobileloop"

    def missing(self, store: Store) -> str | None:
        return None if llama.gguf(store).is_file() else f"the Q4_0 file is missing: {llama.HOW}"

    def build(self, store: Store, say: Say) -> None:
        return None

    def prepare(self, store: Store, say: Say) -> None:
        if not artifact(store).is_file():
            say("exporting the Q4_0 weights to our engine, bit for bit")
            weights.write_engine(llama.gguf(store), artifact(store))

    def versions(self, store: Store) -> dict[str, str]:

        return {"mobileloop": mobileloop.__version__, "kernels": native.kernels()}

    def cells(self, store: Store, settings: Settings) -> list[Cell]:
        everyone = available_threads()

        def cell(name: str, task: str, busy: int = 0, **more: Any) -> Cell:
            request = {**settings.model_dump(), "path": str(artifact(store)), "task": task, **more}
            return Cell(self.name, name, worker("ours", request), busy)

        cells = [
            cell("decode-1", "decode", threads=1, loops=[1]),
            cell("decode-2", "decode", threads=2, loops=list(LOOPS)),
            cell("prefill-2", "prefill", threads=2),
            cell("load-2", "load", threads=2),
            cell("memory-2", "memory", threads=2),
            cell("busy-2", "decode", settings.busy, threads=2, loops=[1], repeats=1),
            cell("bandwidth", "bandwidth", threads=0),
        ]
        if everyone != 2:
            cells.append(cell("decode-all", "decode", threads=everyone, loops=list(LOOPS)))
        if can_stream():
            cells.append(cell("stream-2", "decode", threads=2, loops=[1, 2], stream="core"))
        return cells

    def unavailable(self) -> dict[str, str]:
        return {} if can_stream() else {"stream-2": "not available: this engine has no streaming threads yet"}

    def greedy(self, store: Store, settings: Settings, prompt: Sequence[int]) -> dict[int, Command]:
        base = {**settings.model_dump(), "path": str(artifact(store)), "task": "greedy", "prompt_ids": list(prompt)}
        return {loops: worker("ours", {**base, "threads": 2, "loops": [loops]}) for loops in (1, 2)}


def can_stream() -> bool:
    """Whether sessions take `stream`, which gives a thread only the job of reading ahead."""
    return "stream" in inspect.signature(runtimes.open_session).parameters


# -- in the child process ------------------------------------------------------------------------------


def work(request: dict[str, Any]) -> dict[str, list[float]]:
    """One cell."""
    tasks = {
        "decode": _decode,
        "prefill": _prefill,
        "load": _load,
        "memory": _memory,
        "bandwidth": _bandwidth,
        "greedy": _greedy,
    }
    return tasks[request["task"]](request)


def _open(request: dict[str, Any], loops: int) -> Session:
    more = {"stream": request["stream"]} if "stream" in request else {}
    return runtimes.open_session(request["path"], threads=request["threads"], loops=loops, **more)


def _decode(request: dict[str, Any]) -> dict[str, list[float]]:
    """Tokens/s by loop count, all in one session, in turn; the first turn warms up and is not kept."""
    session = _open(request, request["loops"][0])
    count, before = request["decode_tokens"], request["context_tokens"]
    tokens = tokens_of(request, session.info.config.vocab_size, before + count)
    found: dict[str, list[float]] = {f"loops-{loops}": [] for loops in request["loops"]}
    for turn in range(request["repeats"] + 1):
        for loops in request["loops"]:
            session.reset(loops)
            session.prefill(tokens[:before])
            seconds = timed(lambda: _run(session, tokens[before:]))
            if turn:
                found[f"loops-{loops}"].append(count / seconds)
    info = session.info
    middle = before + count // 2
    found["bytes_per_token"] = [float(info.unique_bytes() + info.kv_bytes(middle, request["loops"][0]))]
    return found


def _run(session: Session, tokens: Sequence[int]) -> None:
    for token in tokens:
        session.decode(token)


def _prefill(request: dict[str, Any]) -> dict[str, list[float]]:
    session = _open(request, 1)
    tokens = tokens_of(request, session.info.config.vocab_size, request["prefill_tokens"])
    rates = []
    for turn in range(request["repeats"] + 1):
        session.reset()
        seconds = timed(lambda: _prefill_once(session, tokens))
        if turn:
            rates.append(len(tokens) / seconds)
    return {"tokens_per_s": rates}


def _prefill_once(session: Session, tokens: Sequence[int]) -> None:
    session.prefill(tokens)


def _load(request: dict[str, Any]) -> dict[str, list[float]]:
    """Milliseconds from opening the file, in the page cache by now, to the logits of the prompt."""
    native.library()
    Path(request["path"]).read_bytes()
    found = []
    opened: list[Session] = []

    def load() -> None:
        opened.append(_open(request, 1))
        tokens = tokens_of(request, opened[-1].info.config.vocab_size, request["load_tokens"])
        opened[-1].prefill(tokens)

    for _ in range(request["repeats"]):
        found.append(1000 * timed(load))
        opened.pop().close()
    return {"ms": found}


def _memory(request: dict[str, Any]) -> dict[str, list[float]]:
    """Peak private memory, polled, over that of a process with the engine's library; KV bytes taken off."""
    native.library()
    peak, done = [0], threading.Event()

    def poll() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], memory_status().get("RssAnon", 0))
            time.sleep(POLL_SECONDS)

    poller = threading.Thread(target=poll)
    poller.start()
    time.sleep(0.05)
    before = memory_status().get("RssAnon", 0)
    session = _open(request, 1)
    vocab, prompt, decoded = session.info.config.vocab_size, request["prefill_tokens"], request["decode_tokens"]
    tokens = tokens_of(request, vocab, prompt + decoded)
    session.prefill(tokens[:prompt])
    _run(session, tokens[prompt:])
    done.set()
    poller.join()
    top = max(peak[0], memory_status().get("RssAnon", 0))
    if not before or not top:
        return {}
    kv = session.info.kv_capacity_bytes() // session.info.schedule.max_loops * len(tokens) // session.info.context
    return {"mb": [(top - before - kv) / 1e6], "kv_mb": [kv / 1e6]}


def _bandwidth(request: dict[str, Any]) -> dict[str, list[float]]:
    size = working_set_bytes(probe())
    return {
        f"threads-{threads}": [read_bandwidth(threads, size, BANDWIDTH_SECONDS) for _ in range(BANDWIDTH_REPEATS)]
        for threads in (1, 2)
    }


def _greedy(request: dict[str, Any]) -> dict[str, list[float]]:
    session = _open(request, request["loops"][0])
    logits = session.prefill(request["prompt_ids"])
    tokens: list[float] = []
    for _ in range(request["greedy_tokens"]):
        tokens.append(float(np.argmax(logits)))
        logits = session.decode(int(tokens[-1]))
    return {"tokens": tokens}
