"""Who takes part, by name, in the order of the tables."""

from __future__ import annotations

from mobileloop_bench.peers import llama
from mobileloop_bench.peers.contestant import Contestant
from mobileloop_bench.peers.executorch import Executorch
from mobileloop_bench.peers.genai import Genai


def peers() -> dict[str, Contestant]:
    """By the names that `mobileloop bench --peer` takes.

    The first build of llama.cpp comes first, because it makes the file that all others read.
    """
    everybody: list[Contestant] = [*(llama.Llama(variant) for variant in llama.variants()), Genai(), Executorch()]
    return {one.name: one for one in everybody}
