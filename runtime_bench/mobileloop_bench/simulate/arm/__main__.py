"""python -m mobileloop_bench.simulate.arm misses | products: prints tables, writes the JSON behind them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mobileloop.errors import MobileloopError
from mobileloop.files import cache_path
from mobileloop_bench.simulate.arm import misses, products
from mobileloop_bench.simulate.caches import PHONES
from mobileloop_bench.simulate.qemu import Emulator


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _headers() -> Path:
    """Where engine/onnxruntime/fetch_headers.py puts them."""
    return cache_path("onnxruntime-headers-1.29.0")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mobileloop_bench.simulate.arm", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/arm-evidence"), help="where programs are built")
    what = parser.add_subparsers(dest="what", required=True)
    simulated = what.add_parser("misses", help="simulated cache misses of a decoded token")
    simulated.add_argument("--phones", default=",".join(PHONES), help="comma list of %(default)s")
    simulated.add_argument("--threads", type=_numbers, default=(1, 2, 4))
    simulated.add_argument("--loops", type=_numbers, default=(1, 2, 4))
    simulated.add_argument("--blocks", type=int, default=30, help="of 2.2 MB each; fewer are faster to simulate")
    simulated.add_argument("--cachegrind", action="store_true", help="ask valgrind's simulator too")
    counted = what.add_parser("products", help="instructions per weight of the matrix products")
    counted.add_argument("--llama-cpp", type=Path, help="a source tree of llama.cpp, to count its products too")
    counted.add_argument("--onnxruntime", type=Path, help="libonnxruntime.so.* of an aarch64 wheel, the same for it")
    counted.add_argument("--onnxruntime-headers", type=Path, default=_headers())
    for command in (simulated, counted):
        command.add_argument("--output", type=Path, help="JSON document to write")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables and write the document; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        emulator = Emulator(options.folder.resolve())
        if options.what == "misses":
            document = misses.measure(
                emulator, options.phones.split(","), options.threads, options.loops, options.blocks, options.cachegrind
            )
            text = misses.tables(document)
        else:
            document = products.measure(
                emulator, options.llama_cpp, options.onnxruntime, options.onnxruntime_headers.resolve()
            )
            text = products.tables(document)
    except MobileloopError as error:
        print(f"arm: {error}", file=sys.stderr)
        return error.exit_code
    print(text)
    if options.output:
        options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
