"""Peers in `mobileloop bench`: which of them run beside which configurations, and why the others do not.

A peer runs the checkpoint that an artifact was exported from, in a file of its own format. It is measured once per
checkpoint, whatever the number of artifacts made of it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from mobileloop.errors import MobileloopError
from mobileloop.files import file_sha256
from mobileloop.spec.schedule import Schedule, Stage
from mobileloop_bench.measure.plan import Artifact, Configuration, Plan, Skipped
from mobileloop_bench.measure.process import Entry
from mobileloop_bench.peers.builds import Store, default_folder
from mobileloop_bench.peers.contestant import Contestant, Repetition, Source
from mobileloop_bench.peers.contestants import peers


def with_peers(plan: Plan, names: Sequence[str], source: Path | None = None, store: Store | None = None) -> Plan:
    """The plan with peers behind our configurations, in the same rounds.

    Args:
        plan: what is measured of ours.
        names: of the peers.
        source: the checkpoint, where it is not beside the artifact.
        store: where peers were built; the user's cache folder where not given.

    Raises:
        MobileloopError: for an unknown name, or a `source` that no artifact was exported from.
    """
    settings = plan.settings
    asked: list[int | None] = [None] if settings.loops is None else [*settings.loops]
    names = chosen(names)
    sweep = itertools.product(names, plan.artifacts, asked, settings.depths, settings.sequences, settings.threads)
    wanted = []
    for name, artifact, requested, depth, sequences, threads in sweep:
        loops = artifact.info.schedule.default_loops if requested is None else requested
        one = Configuration(artifact, threads, loops, requested, depth=depth, sequences=sequences, peer=name)
        wanted.append(one)
    return joined(plan, wanted, source, store)


def joined(plan: Plan, wanted: Sequence[Configuration], source: Path | None = None, store: Store | None = None) -> Plan:
    """The plan with these configurations of peers behind its own, each with what it runs, or skipped with the reason.

    Configurations for which a peer would run the same file in the same way are one.

    Raises:
        MobileloopError: for a `source` that no artifact was exported from.
    """
    everybody, sources = peers(), _sources(plan.artifacts, source)
    store = store or Store(default_folder())
    settings = plan.settings
    entries: dict[tuple[str, str, Repetition], Entry | MobileloopError] = {}
    found: dict[tuple[object, ...], Configuration] = {}
    skipped: dict[tuple[object, ...], Skipped] = {}
    for one in wanted:
        assert one.peer is not None
        info, swept = one.artifact.info, (one.threads, one.depth, one.sequences, one.busy)
        try:
            repetition = repetition_of(info.schedule, one.requested_loops)
            place = (one.peer, info.source_sha256, repetition)
            if place not in entries:
                entries[place] = _entry(everybody[one.peer], store, sources[one.artifact.label], repetition)
            entry = entries[place]
            if isinstance(entry, MobileloopError):
                raise entry
            _check_room(one, entry, settings.prompt_tokens + settings.decode_tokens)
        except MobileloopError as error:
            reason = str(error).rstrip(".")
            skipped.setdefault((one.peer, one.label, one.loops, *swept, reason), Skipped(one, reason))
            continue
        found.setdefault((*place, *swept), dataclasses.replace(one, entry=entry))
    return dataclasses.replace(
        plan,
        configurations=(*plan.configurations, *found.values()),
        skipped=(*plan.skipped, *skipped.values()),
    )


def repetition_of(schedule: Schedule, loops: int | None) -> Repetition:
    """How often every block is applied, where a peer can do the same.

    Raises:
        MobileloopError: where none can: blocks in any other order, or more to a loop than blocks and the final norm.
    """
    schedule.check_loops(loops)
    order = [application.block for application in schedule.applications(loops)]
    blocks, single = sorted(set(order)), len(schedule.stages) == 1
    times = len(order) // len(blocks)
    if all(_plain(stage, single) for stage in schedule.stages):
        if order == blocks * times:
            # Behind the last loop, its norm is the model's final one.
            return Repetition(times, times > 1, times > 1 and schedule.stages[0].loop_end_norm)
        if times == 2 and order == [block for block in blocks for _ in range(times)]:
            return Repetition(times)
    raise MobileloopError(
        "only every block once, each twice in a row, or all of them in a loop has a counterpart, which "
        f"{schedule.name} {'as it is' if loops is None else f'with {loops} loops'} has not."
    )


def _plain(stage: Stage, may_norm: bool) -> bool:
    """Whether a stage is blocks in a loop and nothing more; a norm at its loop ends counts only beside other stages."""
    update = {"loops": 1, "max_loops": 1, **({"loop_end_norm": False} if may_norm else {})}
    return stage.model_copy(update=update) == Stage(blocks=stage.blocks or (0,))


def chosen(names: Sequence[str], option: str = "--peer") -> list[str]:
    """The names that an option was given, each once.

    Raises:
        MobileloopError: for one that no peer has.
    """
    for name in names:
        if name not in peers():
            raise MobileloopError(f"{option} {name} is unknown; the peers are {', '.join(peers())}.")
    return list(dict.fromkeys(names))


def _sources(artifacts: Sequence[Artifact], given: Path | None) -> dict[str, Source]:
    """Every artifact's checkpoint by the artifact's label: the given file, or the one beside it of the same name."""
    digest = None if given is None else _given_sha256(artifacts, given)
    found = {}
    for artifact in artifacts:
        info = artifact.info
        beside = artifact.path.parent / Path(info.source).name  # a name only, whatever the file says
        path = None
        if digest == info.source_sha256:
            path = given
        elif beside.is_file() and file_sha256(beside) == info.source_sha256:
            path = beside
        found[artifact.label] = Source(info.source, info.source_sha256, path)
    return found


def _given_sha256(artifacts: Sequence[Artifact], given: Path) -> str:
    if not given.is_file():
        raise MobileloopError(f"--source {given} is no file; name the .gguf that the artifact was exported from.")
    digest = file_sha256(given)
    if all(artifact.info.source_sha256 != digest for artifact in artifacts):
        first = artifacts[0]
        raise MobileloopError(
            f"--source {given} has the SHA-256 {digest[:12]}..., but {first.label} was exported from "
            f"{first.info.source} with {first.info.source_sha256[:12]}...; name that file."
        )
    return digest


def _entry(contestant: Contestant, store: Store, source: Source, repetition: Repetition) -> Entry | MobileloopError:
    try:
        if source.sha256 == "random":
            raise MobileloopError("random weights come from no checkpoint that a peer could read.")
        return contestant.entry(store, source, repetition)
    except MobileloopError as error:
        return error


def _check_room(one: Configuration, entry: Entry, needed: int) -> None:
    room = one.artifact.info.config.max_position if entry.context is None else entry.context
    if one.sequences > 1:
        raise MobileloopError(f"peers are measured with one sequence, not with --batch {one.sequences}.")
    if one.depth + needed > room:
        raise MobileloopError(
            f"--depth {one.depth} and {needed} prompt and decode tokens do not fit the context of {room} of "
            f"{entry.path.name}."
        )
