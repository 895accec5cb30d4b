"""Memory of one artifact in a process of its own: sampling it beside the timing would disturb the timing.

Anonymous memory is what a phone's system counts against an app; pages of a mapped file can be dropped and read
again. A runtime that copies ("packs") mapped weights turns the second kind into the first, and does so once per
application if it does not know that two applications share a block. Hence the two are reported apart.

Run as `python -m mobileloop_bench.measure.memory`, it reads its request from stdin and prints one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time

from pydantic import BaseModel, Field, ValidationError

from mobileloop import runtimes
from mobileloop.process import memory_status
from mobileloop.runtimes.base import SessionOptions
from mobileloop_bench.measure.plan import Configuration, Plan
from mobileloop_bench.measure.samples import prompt_of
from mobileloop_bench.measure.session_runner import run_tokens
from mobileloop_bench.results.result import Memory
from mobileloop_bench.results.settings import Settings

MemoryKey = tuple[str, int, int, int]  # artifact, loops, depth, sequences

DECODED_TOKENS = 8
TIMEOUT_S = 600


class Request(BaseModel):
    """What the child process is asked to run."""

    path: str
    runtime: str
    options: SessionOptions = Field(default_factory=SessionOptions)
    threads: int
    loops: int | None
    sequences: int = 1
    prompt_tokens: int


def memory_key(one: Configuration) -> MemoryKey:
    """What memory depends on; threads and streaming modes share a figure."""
    return one.artifact.label, one.loops, one.depth, one.sequences


def measure_memory(plan: Plan, seconds: float | None = None) -> dict[MemoryKey, Memory]:
    """Memory of our configurations by key, each at the plan's largest thread count. Ctrl-C leaves the rest out.

    Args:
        plan: what was measured.
        seconds: no process is started after them.
    """
    found: dict[MemoryKey, Memory] = {}
    start = time.perf_counter()
    try:
        for one in plan.configurations:
            key = memory_key(one)
            if key in found or one.peer is not None:
                continue
            late = seconds is not None and time.perf_counter() - start >= seconds
            found[key] = Memory(reason="the time budget was over") if late else _in_child(one, plan.settings)
    except KeyboardInterrupt:
        pass
    return found


def _in_child(one: Configuration, settings: Settings) -> Memory:
    artifact, depth = one.artifact, one.depth
    request = Request(
        path=str(artifact.path.resolve()),
        runtime=artifact.runtime,
        options={**artifact.options, "stream": "off"},  # calibration would add to the memory
        threads=max(settings.threads),
        loops=one.requested_loops,
        sequences=one.sequences,
        prompt_tokens=min(depth + settings.prompt_tokens, artifact.info.context - DECODED_TOKENS),
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mobileloop_bench.measure.memory"],
            input=json.dumps(request.model_dump()),  # a path may hold bytes that are not UTF-8
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
            env=environment,
        )
        return Memory.model_validate_json(done.stdout.strip().splitlines()[-1])
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:] or [f"exit code {error.returncode}"]
        return Memory(reason=f"the memory pass failed: {last[0]}")
    except (OSError, subprocess.TimeoutExpired, IndexError, ValidationError) as error:
        return Memory(reason=f"the memory pass failed: {type(error).__name__}")


def use_of(request: Request) -> Memory:
    """Open, prefill and decode in this process, and compare its memory before and after."""

    # The runtime itself is shared by everything a process runs; only what the artifact adds is counted.
    importlib.import_module(f"mobileloop.runtimes.{request.runtime}").preload()
    before = memory_status()
    session = runtimes.open_session(
        request.path,
        threads=request.threads,
        loops=request.loops,
        sequences=request.sequences,
        **request.options,
    )
    run_tokens(session, request.sequences, prompt_of(session.info.config.vocab_size, request.prompt_tokens, seed=0))
    for token in range(DECODED_TOKENS):
        run_tokens(session, request.sequences, [token % session.info.config.vocab_size])
    after = memory_status()
    info, tokens = session.info, request.prompt_tokens + DECODED_TOKENS
    applied = sum(1 for _ in info.schedule.applications(request.loops)) / info.schedule.num_slots
    session.close()
    return Memory(
        delta_anonymous_bytes=_difference(before, after, "RssAnon"),
        kv_bytes=round(request.sequences * info.kv_capacity_bytes() * applied * tokens / info.context),
        delta_file_bytes=_difference(before, after, "RssFile"),
        swap_bytes=_difference(before, after, "VmSwap"),
        peak_bytes=after.get("VmHWM"),
        threads=request.threads,
    )


def _difference(before: dict[str, int], after: dict[str, int], name: str) -> int | None:
    return after[name] - before[name] if name in before and name in after else None


if __name__ == "__main__":
    print(use_of(Request.model_validate(json.load(sys.stdin))).model_dump_json())
