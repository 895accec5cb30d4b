"""Evidence for ARM without a phone: simulated cache misses and counted instructions (docs/arm.md has the figures).

    python -m mobileloop_bench.simulate [--output docs/arm.json]

decodes one token of a model of SmolLM2-135M's shape with random weights on an emulated processor with the caches of
three phones, and compares the misses with what the loop operator promises: a line of the weights leaves memory once
per token where the block is resident, and once per application where it is not. Then it counts the instructions of the
matrix products, ours and llama.cpp's. Nothing here is a time, and no phone took part.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobileloop.artifact import ArtifactInfo, written_whole
from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError
from mobileloop.presets import preset
from mobileloop.quant.packed import PackedModel
from mobileloop.schedule import Schedule
from mobileloop_bench.emulator import LINE_BYTES, Cache, Counts, Emulator, build, needed, run
from mobileloop_export import exporter

KIB, MIB = 1 << 10, 1 << 20
LOOPS, THREADS, MAX_LOOPS = (1, 2, 4), (1, 2, 4), 4
ROWS, COLS = 1536, 576  # the gate projection of SmolLM2-135M
CROSS_CHECK = Cache(8 * MIB, 16, None)


@dataclass(frozen=True)
class Phone:
    """Caches of a phone's big cores as far as they are known, and where each size is from."""

    name: str
    l1: Cache
    l2: Cache
    last: Cache | None
    source: str


# The system-level cache that some of them have behind these is left out: its sizes are rumours.
PHONES = {
    "elite": Phone(
        "Snapdragon 8 Elite, performance cores",
        Cache(128 * KIB, 4),
        Cache(12 * MIB, 12, 8),
        None,
        "L1 and L2 as the press reported them; no L3; ways assumed",
    ),
    "gen3": Phone(
        "Snapdragon 8 Gen 3, X4",
        Cache(64 * KIB, 4),
        Cache(2 * MIB, 8),
        Cache(12 * MIB, 16, None),
        "L2 and L3 from memory, not verified (a leak says 10 MB of L3); L1 and ways assumed",
    ),
    "d9300": Phone(
        "Dimensity 9300, X4",
        Cache(64 * KIB, 4),
        Cache(1 * MIB, 8),
        Cache(8 * MIB, 16, None),
        "L3 as the press reported it; L2 from memory, not verified; L1 and ways assumed",
    ),
    "pi5": Phone(
        "Raspberry Pi 5 (a board), A76",
        Cache(64 * KIB, 4),
        Cache(512 * KIB, 8),
        Cache(2 * MIB, 16, None),
        "sizes from the Linux device tree of the board (bcm2712.dtsi); ways assumed",
    ),
}


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


def is_resident(info: ArtifactInfo, cache: Cache, threads: int) -> bool:
    """Whether what a loop re-reads fits the caches of one level, by size alone.

    A stage's blocks are re-read together. A core re-reads its own rows, 1 / threads of them, and `cache.cores` cores
    share one cache.
    """
    sharing = min(cache.cores or threads, threads)
    stages = (sum(info.costs.block_bytes[block] for block in stage.blocks) for stage in info.schedule.stages)
    return max(stages) * sharing / threads <= cache.size_bytes


def token_misses(
    emulator: Emulator, artifact: Path, info: ArtifactInfo, phone: Phone, threads: int, loops: int
) -> list[dict[str, Any]]:
    """One decoded token, warm: for every level the misses, and what the bytes predict.

    `predicted_lines` is unique bytes / 64 where the block is resident and executed bytes / 64 where it is not.
    """
    counts = emulator.count("decode", artifact, loops, threads, 1, l1=phone.l1, l2=phone.l2, last=phone.last)
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


def product_counts(emulator: Emulator, llama_cpp: Path | None) -> Iterator[dict[str, Any]]:
    """Instructions per weight of every kernel set and scheme, for 1 token and for 16; llama.cpp's products beside."""
    for scheme, tile_bytes in (("int4-symmetric", 144), ("int4", 160), ("int8", 272)):
        for kernels in ("neon", "neon-dotprod", "neon-i8mm"):
            for tokens in (1, 16):
                counts = emulator.count("product", scheme, ROWS, COLS, tokens, kernels=kernels)
                yield _product("mobileloop", kernels, scheme, tokens, "15-bit, two planes", tile_bytes / 256, counts)
    if llama_cpp:
        program = emulator.build_ggml(llama_cpp)
        for kernels in ("gemv-4x4", "gemv-4x8", "vec-dot"):
            counts = emulator.count(kernels, ROWS, COLS, program=program)
            yield _product("llama.cpp", kernels, "Q4_0", 1, "8-bit, one plane", 18 / 32, counts)


def _product(
    project: str, kernels: str, scheme: str, tokens: int, activations: str, weight_bytes: float, counts: Counts
) -> dict[str, Any]:
    instructions, weights = sum(counts.instructions), ROWS * COLS
    return {
        "project": project,
        "kernels": kernels,
        "scheme": scheme,
        "tokens": tokens,
        "activations": activations,
        "bytes_per_weight": weight_bytes,
        "instructions_per_weight_and_token": instructions / weights / tokens,
        "weight_bytes_per_instruction": weights * weight_bytes / instructions,
        "instructions": instructions,
    }


def cross_check(emulator: Emulator, artifact: Path, info: ArtifactInfo, loops: int) -> dict[str, Any]:
    """The same question to another simulator: valgrind's cachegrind on the host's own build of the engine.

    It has two levels and no marks, so the misses of one token are the difference of runs of two tokens and of one.

    Raises:
        MobileloopError: where valgrind is missing.
    """
    valgrind = needed("valgrind", "valgrind")
    program = build(emulator.folder / "engine-host", "evidence")
    out, last = emulator.folder / "cachegrind.out", CROSS_CHECK
    geometry = [f"--D1={64 * KIB},4,{LINE_BYTES}", f"--LL={last.size_bytes},{last.ways},{LINE_BYTES}"]
    misses = []
    for tokens in (1, 2):
        run(
            *(valgrind, "--tool=cachegrind", "--cache-sim=yes", *geometry, f"--cachegrind-out-file={out}"),
            *(program, "decode", artifact, str(loops), "1", str(tokens), "0"),
            environment={"MOBILELOOP_KERNELS": "avx2"},
        )
        lines = out.read_text(encoding="utf-8", errors="replace").splitlines()
        events = next(line for line in lines if line.startswith("events:")).split()[1:]
        total = next(line for line in lines if line.startswith("summary:")).split()[1:]
        named = dict(zip(events, map(int, total), strict=True))
        misses.append(named["DLmr"] + named["DLmw"])
    out.unlink()
    predicted = info.unique_bytes() / LINE_BYTES
    return {
        "simulator": "valgrind cachegrind, x86-64 build (avx2)",
        "loops": loops,
        "last_level_bytes": last.size_bytes,
        "predicted_lines": round(predicted),
        "miss_lines": misses[1] - misses[0],
        "all_over_predicted": (misses[1] - misses[0]) / predicted,
    }


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


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


def _product_cells(row: dict[str, Any]) -> list[str]:
    return [
        *(str(row[name]) for name in ("project", "kernels", "scheme", "tokens", "activations")),
        f"{row['bytes_per_weight']:.4f}",
        f"{row['instructions_per_weight_and_token']:.3f}",
        f"{row['weight_bytes_per_instruction']:.2f}",
    ]


def markdown(document: dict[str, Any]) -> str:
    """The document's tables, as docs/arm.md shows them."""
    misses = ["caches of", "level", "schedule", "threads", "loops", "resident", "predicted", "simulated: weights", "KV"]
    misses += ["other", "weights / predicted", "all / predicted"]
    products = ["project", "kernel", "weights", "tokens", "activations", "bytes per weight"]
    products += ["instructions per weight and token", "weight bytes per instruction"]
    parts = [_table(misses, [_miss_cells(row) for row in document["misses"]])]
    if document["cross_check"]:
        titles = ["loops", "predicted", "cachegrind, all data", "ratio"]
        parts.append(_table(titles, [_check_cells(row) for row in document["cross_check"]]))
    parts.append(_table(products, [_product_cells(row) for row in document["products"]]))
    return "\n".join(parts)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mobileloop_bench.simulate", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/arm-evidence"), help="where programs are built")
    parser.add_argument("--phones", default=",".join(PHONES), help="comma list of " + ", ".join(PHONES))
    parser.add_argument("--threads", type=_numbers, default=THREADS)
    parser.add_argument("--loops", type=_numbers, default=LOOPS)
    parser.add_argument("--blocks", type=int, default=30, help="of 2.2 MB each; fewer are faster to simulate")
    parser.add_argument("--llama-cpp", type=Path, help="a source tree of llama.cpp, to count its kernels too")
    parser.add_argument("--cachegrind", action="store_true", help="ask valgrind's simulator too")
    parser.add_argument("--output", type=Path, help="JSON document to write")
    return parser


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything that the options ask for.

    Raises:
        MobileloopError: where a tool is missing or a run fails.
    """
    emulator = Emulator(options.folder.resolve())
    unknown = sorted(set(options.phones.split(",")) - set(PHONES))
    if unknown:
        raise MobileloopError(f"the phone '{unknown[0]}' is not known; choose of {', '.join(PHONES)}.")
    phones = [PHONES[name] for name in options.phones.split(",")]
    artifact = {name: emulator.folder / f"{name}-{options.blocks}.safetensors" for name in ("immediate", "all")}
    info = {name: write_artifact(path, name, options.blocks) for name, path in artifact.items()}
    misses = []
    for phone in phones:
        for threads in options.threads:
            for loops in options.loops:
                print(f"{phone.name}, threads {threads}, loops {loops}", file=sys.stderr)
                misses += token_misses(emulator, artifact["immediate"], info["immediate"], phone, threads, loops)
    for loops in options.loops[1:]:  # where nothing is resident, whatever the block's size
        misses += token_misses(emulator, artifact["all"], info["all"], phones[0], 1, loops)
    checked = []
    if options.cachegrind:
        checked = [cross_check(emulator, artifact["immediate"], info["immediate"], loops) for loops in options.loops]
    return {
        "note": "simulated misses and counted instructions of an emulated processor; no phone, no time",
        "emulator": run(emulator.qemu, "--version").splitlines()[0],
        "compiler": run(emulator.compiler, "--version").splitlines()[0],
        "phones": [{"name": phone.name, "source": phone.source} for phone in phones],
        "block_bytes": max(info["immediate"].costs.block_bytes),
        "blocks": options.blocks,
        "misses": misses,
        "cross_check": checked,
        "products": list(product_counts(emulator, options.llama_cpp)),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables and write the document; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        document = measure(options)
    except MobileloopError as error:
        print(f"simulate: {error}", file=sys.stderr)
        return error.exit_code
    print(markdown(document))
    if options.output:
        options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
