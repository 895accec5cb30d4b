"""Simulated cache misses of one decoded token, against what the loop operator promises.

A line of the weights leaves memory once per token where the block is resident, and once per application where it is
not. A model of SmolLM2-135M's shape with random weights decodes one token on an emulated processor with the caches of
three phones and a board. Nothing here is a time, and no phone took part.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mobileloop.artifact import ArtifactInfo
from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError
from mobileloop.families.registry import preset
from mobileloop.files import written_whole
from mobileloop.packed import PackedModel
from mobileloop.spec.schedule import Schedule
from mobileloop_bench.simulate.cachegrind import Cachegrind
from mobileloop_bench.simulate.caches import KIB, LINE_BYTES, MIB, PHONES, Cache, Phone, is_resident
from mobileloop_bench.simulate.qemu import Emulator
from mobileloop_bench.writing.markdown import markdown_table
from mobileloop_export.formats import exporter

MAX_LOOPS = 4
CROSS_CHECK = Cache(8 * MIB, 16, None)


def write_artifact(path: Path, schedule: str, blocks: int, vocab_size: int = 49152) -> ArtifactInfo:
    """An int4 engine artifact of SmolLM2-135M's shape with random weights; misses do not depend on their values.

    Args:
        path: where it is written.
        schedule: `immediate` (a block's loops follow each other) or `all` (all blocks, then all again).
        blocks: of 2.2 MB each; SmolLM2-135M has 30.
        vocab_size: rows of the int8 head.
    """
    config = preset("smollm2-135m")[0].model_copy(update={"num_blocks": blocks, "vocab_size": vocab_size})
    made = Schedule.immediate if schedule == "immediate" else Schedule.repeat_all_over
    checkpoint = random_model(config, made(blocks, MAX_LOOPS))
    packed = PackedModel.from_checkpoint(checkpoint, "int4")
    info = ArtifactInfo.describe(checkpoint, packed, context=64, kv_bits=16)
    with written_whole(path) as temporary:
        exporter("engine")(packed, info, temporary, lambda step, share: None)
    return info


def token_misses(
    emulator: Emulator, artifact: Path, info: ArtifactInfo, phone: Phone, threads: int, loops: int, prefix: int = 16
) -> list[dict[str, Any]]:
    """One decoded token behind `prefix` others, warm: for every level the misses, and what the bytes predict.

    `predicted_lines` is unique bytes / 64 where the block is resident and executed bytes / 64 where it is not.
    """
    counts = emulator.count("decode", artifact, loops, threads, 1, prefix, l1=phone.l1, l2=phone.l2, last=phone.last)
    rows = []
    for level, cache in (("l2", phone.l2), ("last", phone.last)):
        if cache is None:
            continue
        resident = loops == 1 or is_resident(info, cache, threads)
        expected = info.unique_bytes() if resident else info.executed_bytes(loops)
        misses = counts.misses[level]
        rows.append(
            {
                "phone": phone.name,
                "schedule": info.schedule.name.split(":")[0],
                "threads": threads,
                "loops": loops,
                "level": level,
                "cache_bytes": cache.size_bytes,
                "resident_by_size": resident,
                "unique_bytes": info.unique_bytes(),
                "executed_bytes": info.executed_bytes(loops),
                "predicted_lines": round(expected / LINE_BYTES),
                "miss_lines": dict(misses),
                "weights_over_predicted": misses["weights"] * LINE_BYTES / expected,
                "all_over_predicted": sum(misses.values()) * LINE_BYTES / expected,
                "instructions": sum(counts.instructions) if threads == 1 else None,
                "kernels": counts.kernels,
            }
        )
    return rows


def cross_check(cachegrind: Cachegrind, artifact: Path, info: ArtifactInfo, loops: int) -> dict[str, Any]:
    """The same question to another simulator, on the host's own build of the engine."""
    lines = cachegrind.token_lines(artifact, loops, Cache(64 * KIB, 4), CROSS_CHECK)
    predicted = info.unique_bytes() / LINE_BYTES
    return {
        "simulator": cachegrind.described(),
        "loops": loops,
        "last_level_bytes": CROSS_CHECK.size_bytes,
        "predicted_lines": round(predicted),
        "miss_lines": lines,
        "all_over_predicted": lines / predicted,
    }


def _miss_cells(row: dict[str, Any]) -> list[str]:
    misses = row["miss_lines"]
    return [
        row["phone"],
        f"{row['level'].replace('l2', 'L2')}, {row['cache_bytes'] / MIB:g} MiB",
        row["schedule"],
        str(row["threads"]),
        str(row["loops"]),
        "yes" if row["resident_by_size"] else "no",
        f"{row['predicted_lines']:,}",
        *(f"{misses[kind]:,}" for kind in ("weights", "kv", "other")),
        f"{row['weights_over_predicted']:.3f}",
        f"{row['all_over_predicted']:.3f}",
    ]


def _check_cells(row: dict[str, Any]) -> list[str]:
    ratio = f"{row['all_over_predicted']:.3f}"
    return [str(row["loops"]), f"{row['predicted_lines']:,}", f"{row['miss_lines']:,}", ratio]


def tables(document: dict[str, Any]) -> str:
    """The document as docs/arm.md shows it."""
    titles = ["caches of", "level", "schedule", "threads", "loops", "resident", "predicted", "simulated: weights", "KV"]
    titles += ["other", "weights / predicted", "all / predicted"]
    text = "\n".join(markdown_table(titles, [_miss_cells(row) for row in document["misses"]])) + "\n"
    if document["cross_check"]:
        titles = ["loops", "predicted", "cachegrind, all data", "ratio"]
        text += "\n" + "\n".join(markdown_table(titles, [_check_cells(row) for row in document["cross_check"]])) + "\n"
    return text


def measure(
    emulator: Emulator,
    names: Sequence[str],
    threads: Sequence[int],
    loops: Sequence[int],
    blocks: int,
    cachegrind: bool,
) -> dict[str, Any]:
    """Misses of one token for every phone, thread count and loop count; the document that `tables` shows.

    Raises:
        MobileloopError: where a phone is not known, a tool is missing or a run fails.
    """
    unknown = sorted(set(names) - set(PHONES))
    if unknown:
        raise MobileloopError(f"the phone '{unknown[0]}' is not known; choose of {', '.join(PHONES)}.")
    phones = [PHONES[name] for name in names]
    artifact = {name: emulator.folder / f"{name}-{blocks}.safetensors" for name in ("immediate", "all")}
    info = {name: write_artifact(path, name, blocks) for name, path in artifact.items()}
    cases = [("immediate", phone, count, number) for phone in phones for count in threads for number in loops]
    # All blocks, then all again: nothing is resident, whatever a block's size.
    cases += [("all", phones[0], threads[0], number) for number in loops if number > 1]
    misses = []
    for schedule, phone, count, number in cases:
        print(f"{phone.name}, {schedule}, threads {count}, loops {number}", file=sys.stderr)
        misses += token_misses(emulator, artifact[schedule], info[schedule], phone, count, number)
    checked = []
    if cachegrind:
        second = Cachegrind(emulator.folder)
        checked = [cross_check(second, artifact["immediate"], info["immediate"], number) for number in loops]
    return {
        **emulator.described(),
        "phones": [{"name": phone.name, "source": phone.source} for phone in phones],
        "block_bytes": max(info["immediate"].costs.block_bytes),
        "blocks": blocks,
        "misses": misses,
        "cross_check": checked,
    }
