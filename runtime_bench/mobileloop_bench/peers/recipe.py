"""The recipe `peers` of `mobileloop bench`: the fixed comparison, on one model at one precision.

Everything is made from one GGUF (`weights`, `ours`); docs/peers.md has the method, `scoreboard` the figures.
"""

from __future__ import annotations

from collections.abc import Sequence

from mobileloop.errors import MobileloopError
from mobileloop.runtimes.base import SessionOptions, available_threads
from mobileloop_bench.measure.plan import Artifact, Configuration, Plan, open_artifacts
from mobileloop_bench.peers import ours
from mobileloop_bench.peers.builds import Say, Store
from mobileloop_bench.peers.contestants import peers
from mobileloop_bench.peers.llama import Llama
from mobileloop_bench.peers.plan import chosen, joined
from mobileloop_bench.results.settings import Settings

NAME = "peers"
LOOPS = (1, 2, 4)
THREADS = 2
BUSY = 2  # other processes, in the cells beside busy neighbours
STREAM = "core:1"


def check_name(recipe: str) -> None:
    """Raise MobileloopError for a recipe that does not exist."""
    if recipe != NAME:
        raise MobileloopError(f"--recipe {recipe} is unknown; there is one: {NAME}.")


def settings_of(**more: object) -> Settings:
    """Those of the recipe; `more` are fields as they are."""
    threads = sorted({1, THREADS, available_threads()})
    return Settings.model_validate({"threads": threads, "loops": list(LOOPS), "streams": ["off", STREAM], **more})


def recipe_plan(
    names: Sequence[str], settings: Settings, store: Store, say: Say, options: SessionOptions | None = None
) -> Plan:
    """Our configurations and those of the peers; of peers that were not built, the reason.

    Args:
        names: of the peers; all of them where empty.
        settings: made by `settings_of`.
        store: where peers were built.
        say: is told what is made first.
        options: of our sessions.

    Raises:
        MobileloopError: for an unknown name, or where the model was not built.
    """
    names = chosen(names or list(peers()))
    blocks, stack = open_artifacts(ours.artifacts(store, say), options)
    plan = Plan(settings, (blocks, stack), tuple(_ours(blocks, stack)), ())
    return joined(plan, [one for name in names for one in _of_peer(name, blocks, stack)], store=store)


def _ours(blocks: Artifact, stack: Artifact) -> list[Configuration]:
    found = [
        Configuration(blocks, 1, 1, 1),
        *(Configuration(blocks, THREADS, loops, loops) for loops in LOOPS),
        *(Configuration(stack, threads, 2, 2) for threads in (1, THREADS)),
        *(Configuration(blocks, THREADS, loops, loops, STREAM) for loops in (1, 2)),
        Configuration(blocks, THREADS, 1, 1, busy=BUSY),
    ]
    if available_threads() > THREADS:
        found += [Configuration(blocks, available_threads(), loops, loops) for loops in LOOPS]
    return found


def _of_peer(name: str, blocks: Artifact, stack: Artifact) -> list[Configuration]:
    """llama.cpp in everything it can do; the others in decode, which they are made for."""
    found = [Configuration(blocks, THREADS, 1, 1, peer=name)]
    if isinstance(peers()[name], Llama):
        found += [
            Configuration(blocks, 1, 1, 1, peer=name),
            Configuration(blocks, THREADS, 2, 2, peer=name),
            *(Configuration(stack, threads, 2, 2, peer=name) for threads in (1, THREADS)),
            Configuration(blocks, THREADS, 1, 1, busy=BUSY, peer=name),
        ]
    return found
