"""`python -m mobileloop_bench.peers build`: fetch and build the peers, once; `mobileloop bench` then measures them."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from mobileloop.console import INTERRUPTED
from mobileloop.errors import MobileloopError
from mobileloop.files import written_whole
from mobileloop_bench.peers import executorch, llama, ours
from mobileloop_bench.peers.builds import Say, Store, default_folder
from mobileloop_bench.peers.contestants import peers
from mobileloop_bench.peers.plan import chosen


def build(store: Store, names: list[str], with_executorch: bool, source: Path | None, say: Say) -> None:
    """Build what is missing; a peer that cannot be built is left out with its reason, unless it makes the model.

    Args:
        store: where.
        names: of the peers.
        with_executorch: also ExecuTorch, which takes half an hour.
        source: the published GGUF, where it is at hand.
        say: is told what happens.

    Raises:
        MobileloopError: where the model cannot be made.
    """
    if source is not None and not llama.source(store).is_file():
        if not source.is_file():
            raise MobileloopError(f"{source} does not exist; leave --source out to have the model fetched.")
        with written_whole(llama.source(store)) as temporary:  # half a copy would be taken for the model
            shutil.copyfile(source, temporary)
    everybody = peers()
    maker = next(iter(everybody.values()))
    if maker.missing(store):
        maker.build(store, say)
    for name in names:
        one = everybody[name]
        if one.missing(store) and (name != executorch.Executorch.name or with_executorch):
            try:
                one.build(store, say)
            except MobileloopError as error:
                say(f"{name} was not built: {error}")
    ours.artifacts(store, say)
    for name in names:
        say(f"{name}: {everybody[name].missing(store) or 'ready'}")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; says a user's mistake in one sentence."""
    parser = argparse.ArgumentParser(prog="python -m mobileloop_bench.peers", description=__doc__)
    command = parser.add_subparsers(dest="command", required=True).add_parser(
        "build",
        help="fetch and build what is missing",
        description="Peers are kept in $MOBILELOOP_PEERS_CACHE, or mobileloop/peers in the user's cache folder.",
    )
    command.add_argument("--only", metavar="LIST", help="peers by name, such as llama.cpp,onnxruntime-genai")
    command.add_argument("--source", type=Path, metavar="GGUF", help=f"{llama.SOURCE}, where you have it")
    command.add_argument(
        executorch.OPTION, action="store_true", dest="executorch", help="also ExecuTorch's export_llm: half an hour"
    )
    options = parser.parse_args(arguments)
    try:
        only = [name.strip() for name in options.only.split(",")] if options.only else list(peers())
        names = chosen(only, "--only")
        build(Store(default_folder()), names, options.executorch, options.source, _say)
    except MobileloopError as error:
        _say(f"{parser.prog}: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _say(f"\n{parser.prog}: interrupted.")
        return INTERRUPTED
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
