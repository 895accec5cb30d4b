"""Who takes part, in the order of the tables."""

from __future__ import annotations

from mobileloop_bench.peers import llama
from mobileloop_bench.peers.contestant import Contestant
from mobileloop_bench.peers.executorch import Executorch
from mobileloop_bench.peers.genai import Genai
from mobileloop_bench.peers.ours import Ours


def peers() -> dict[str, Contestant]:
    """By the names that `mobileloop bench --peer` takes; llama.cpp is the build with our instruction sets."""
    builds = [llama.Llama(variant) for variant in llama.variants()]
    named = {"llama.cpp" if i == 0 else f"llama.cpp-{one.variant}": one for i, one in enumerate(builds)}
    return {**named, "onnxruntime-genai": Genai(), "executorch": Executorch()}


def contestants() -> list[Contestant]:
    """One of each; the first build of llama.cpp comes first, because it makes the file that all others read."""
    peers: list[Contestant] = [llama.Llama(variant) for variant in llama.variants()]
    return [*peers, Genai(), Executorch(), Ours()]
