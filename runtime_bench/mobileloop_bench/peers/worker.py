"""The child process of a contestant that is driven from Python: `python -m mobileloop_bench.peers.worker MODULE`.

The request comes as JSON on stdin; the result goes out as the last line of stdout. What the runtimes themselves print
to stdout comes before it, or in between on stderr.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from mobileloop_bench.measure.samples import prompt_of

WARM_UP_TOKENS = 4  # decoded behind a whole prompt before a turn of a bench is timed


def main(module: str) -> None:
    """Run one request."""
    request: dict[str, Any] = json.load(sys.stdin)
    result = importlib.import_module(f"mobileloop_bench.peers.{module}").work(request)
    sys.stdout.flush()
    print("\n" + json.dumps(result), flush=True)


def tokens_of(request: dict[str, Any], vocab_size: int, count: int) -> list[int]:
    """Fixed pseudo-random token ids; which ones they are does not change the work."""
    return prompt_of(vocab_size, count, int(request["seed"]))


def once(run: Callable[[], object]) -> float:
    """Milliseconds of one call; to be used inside `quiet`."""
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1e6


if __name__ == "__main__":
    main(sys.argv[1])
