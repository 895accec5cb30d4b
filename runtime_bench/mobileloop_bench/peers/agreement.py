"""Correctness before speed: everybody continues the same prompt greedily, beside the PyTorch reference.

8-bit activations are rounded in every runtime's own way, so that near ties may fall differently: a continuation that
leaves the reference late is what to expect, one that leaves it at once is a broken contestant.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from mobileloop.runtimes.engine import read_info
from mobileloop.tokenizer import Tokenizer
from mobileloop_bench.measure.process import CommandFailed, run_command
from mobileloop_bench.peers import llama, ours
from mobileloop_bench.peers.builds import Store
from mobileloop_bench.peers.contestant import Contestant, Settings, worker
from mobileloop_bench.peers.document import Agreement

LOOPS = (1, 2)


def check(
    store: Store, contestants: Sequence[Contestant], settings: Settings, say: Callable[[str], None]
) -> tuple[str, list[Agreement]]:
    """Who the reference is, and everybody's continuation."""
    spec = read_info(ours.artifact(store)).tokenizer
    assert spec is not None
    tokenizer = Tokenizer(spec)
    prompt = tokenizer.encode(settings.prompt)
    say("what the reference says")
    references, name = _reference(store, settings, prompt)
    found = [
        Agreement(contestant="reference", loops=loops, tokens=tokens, same=len(tokens), text=tokenizer.decode(tokens))
        for loops, tokens in references.items()
    ]
    for contestant in contestants:
        for loops, command in contestant.greedy(store, settings, prompt).items():
            say(f"what {contestant.label} says, {loops} loop{'s' if loops > 1 else ''}")
            try:
                tokens = [int(token) for token in run_command(command)["tokens"]]
            except (CommandFailed, KeyError) as error:
                found.append(Agreement(contestant=contestant.name, loops=loops, error=str(error)))
                continue
            same = same_start(tokens, references.get(loops, []))
            text = tokenizer.decode(tokens)
            found.append(Agreement(contestant=contestant.name, loops=loops, tokens=tokens, same=same, text=text))
    return name, found


def same_start(tokens: Sequence[int], reference: Sequence[int]) -> int:
    """How many tokens at the start are equal."""
    count = 0
    for one, other in zip(tokens, reference, strict=False):
        if one != other:
            break
        count += 1
    return count


def _reference(store: Store, settings: Settings, prompt: Sequence[int]) -> tuple[dict[int, list[int]], str]:
    """Continuations of the float32 reference by loop count, or of our engine where PyTorch is not installed."""
    base: dict[str, Any] = {"prompt_ids": list(prompt), "greedy_tokens": settings.greedy_tokens}
    if importlib.util.find_spec("torch") is not None:
        request = {**base, "gguf": str(llama.gguf(store))}
        # One thread: several would wait for each other actively, which takes minutes on a busy machine.
        commands = {loops: worker("agreement", {**request, "loops": loops}, OMP_NUM_THREADS="1") for loops in LOOPS}
        name = "PyTorch, float32, the same weights"
    else:
        commands, name = ours.Ours().greedy(store, settings, prompt), "our engine, for want of PyTorch"
    found = {}
    for loops, command in commands.items():
        try:
            found[loops] = [int(token) for token in run_command(command)["tokens"]]
        except (CommandFailed, KeyError):
            continue
    return found, name


# -- in the child process ------------------------------------------------------------------------------


def work(request: dict[str, Any]) -> dict[str, list[float]]:
    """A greedy continuation by the reference."""
    import torch

    from mobileloop.checkpoints.load import load_checkpoint
    from mobileloop.reference.cache import KvCache
    from mobileloop.reference.model import ReferenceModel
    from mobileloop.spec.schedule import Schedule

    checkpoint = load_checkpoint(request["gguf"])
    schedule = Schedule.parse(f"immediate:{request['loops']}", checkpoint.config.num_blocks)
    model, cache = ReferenceModel.from_checkpoint(checkpoint, schedule), KvCache()
    found: list[float] = []
    tokens = list(request["prompt_ids"])
    for _ in range(request["greedy_tokens"]):
        best = int(model.forward(torch.tensor([tokens]), cache)[0, -1].argmax())
        found.append(float(best))
        tokens = [best]
    return {"tokens": found}
