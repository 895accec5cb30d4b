"""Correctness before speed: everybody continues the same prompt greedily, beside the PyTorch reference.

8-bit activations are rounded in every runtime's own way, so that near ties may fall differently: a continuation that
leaves the reference late is what to expect, one that leaves it at once is a broken contestant.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mobileloop import runtimes
from mobileloop.errors import MobileloopError
from mobileloop.runtimes.engine import read_info
from mobileloop.tokenizer import Tokenizer
from mobileloop_bench.measure.plan import Configuration, Plan
from mobileloop_bench.measure.process import Command, CommandFailed, run_command
from mobileloop_bench.peers.builds import Say
from mobileloop_bench.peers.contestant import worker
from mobileloop_bench.peers.plan import repetition_of
from mobileloop_bench.results.agreement import Agreement, Continuation, same_start

PROMPT, COUNT = "The capital of France is", 24


def check(plan: Plan, checkpoint: Path, say: Say, prompt: str = PROMPT, count: int = COUNT) -> Agreement:
    """What everybody in a plan says, each file and each way to repeat blocks once.

    Args:
        plan: what is to be measured; its artifacts carry a tokenizer.
        checkpoint: that they were exported from.
        say: is told what is asked next.
        prompt, count: the text, and by how many tokens it is continued.
    """
    spec = plan.artifacts[0].info.tokenizer
    if spec is None:
        raise MobileloopError(f"{plan.artifacts[0].label} carries no tokenizer, so nothing can be said with it.")
    tokenizer = Tokenizer(spec)
    ids = tokenizer.encode(prompt)
    found = Agreement(prompt=prompt, reference="PyTorch, float32, the same weights")
    references: dict[str, list[int]] = {}
    with_torch = importlib.util.find_spec("torch") is not None
    if not with_torch:
        found.reference = "our engine, for want of PyTorch"
    asked = set()
    for one in plan.configurations:
        repetition = _repeated(one)
        key = (one.peer, one.label, repetition)
        if repetition is None or key in asked or (one.entry is not None and one.entry.greedy is None):
            continue
        asked.add(key)
        said = Continuation(runtime=one.peer or "mobileloop", artifact=one.label, repetition=repetition)
        try:
            if repetition not in references:
                say(f"what the reference says, {repetition}")
                references[repetition] = (
                    _reference(one, checkpoint, ids, count) if with_torch else _ours(one, ids, count)
                )
                reference = Continuation(runtime="reference", repetition=repetition, tokens=references[repetition])
                _judge(reference, references[repetition], tokenizer)
                found.continuations.append(reference)
            say(f"what {said.runtime} says, {repetition}")
            said.tokens = _theirs(one, ids, count) if one.peer else _ours(one, ids, count)
            _judge(said, references[repetition], tokenizer)
        except CommandFailed as error:
            said.error = str(error)
        found.continuations.append(said)
    return found


def _repeated(one: Configuration) -> str | None:
    try:
        return str(repetition_of(one.artifact.info.schedule, one.requested_loops))
    except MobileloopError:
        return None


def _judge(said: Continuation, reference: Sequence[int], tokenizer: Tokenizer) -> None:
    said.same, said.text = same_start(said.tokens, reference), tokenizer.decode(said.tokens)


def _tokens(command: Command) -> list[int]:
    try:
        return [int(token) for token in run_command(command)["tokens"]]
    except KeyError:
        raise CommandFailed("its output was not understood: it printed no tokens") from None


def _theirs(one: Configuration, prompt: Sequence[int], count: int) -> list[int]:
    assert one.entry is not None
    assert one.entry.greedy is not None
    return _tokens(one.entry.greedy(prompt, count))


def _ours(one: Configuration, prompt: Sequence[int], count: int) -> list[int]:
    session = runtimes.open_session(one.artifact.path, threads=1, loops=one.requested_loops, **one.artifact.options)
    try:
        logits = session.prefill(prompt)
        tokens: list[int] = []
        for _ in range(count):
            tokens.append(int(np.argmax(logits)))
            logits = session.decode(tokens[-1])
        return tokens
    finally:
        session.close()


def _reference(one: Configuration, checkpoint: Path, prompt: Sequence[int], count: int) -> list[int]:
    request = {
        "checkpoint": str(checkpoint),
        "artifact": str(one.artifact.path),
        "loops": one.requested_loops,
        "prompt_ids": list(prompt),
        "count": count,
    }
    # One thread: several would wait for each other actively, which takes minutes on a busy machine.
    return _tokens(worker("agreement", request, OMP_NUM_THREADS="1"))


# -- in the child process ------------------------------------------------------------------------------


def work(request: dict[str, Any]) -> dict[str, list[float]]:
    """A greedy continuation by the reference, in the order of an artifact's schedule."""
    import torch

    from mobileloop.checkpoints.load import load_checkpoint
    from mobileloop.reference.cache import KvCache
    from mobileloop.reference.model import ReferenceModel

    checkpoint, schedule = load_checkpoint(request["checkpoint"]), read_info(Path(request["artifact"])).schedule
    model, cache = ReferenceModel.from_checkpoint(checkpoint, schedule), KvCache()
    found: list[float] = []
    tokens = list(request["prompt_ids"])
    for _ in range(request["count"]):
        best = int(model.forward(torch.tensor([tokens]), cache, loops=request["loops"])[0, -1].argmax())
        found.append(float(best))
        tokens = [best]
    return {"tokens": found}
