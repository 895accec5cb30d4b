"""Prediction beside measurement: `python -m mobileloop_bench.checks.prediction --machine M.json`.

Exports models of random weights, decodes with every loop and thread count in interleaved rounds, predicts the same from
the machine file, and prints both with the error. docs/lab-log.md has what it said.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from mobileloop.artifact import ArtifactInfo
from mobileloop.checkpoints.random import random_model
from mobileloop.console import open_console, print_text, progress_bars
from mobileloop.errors import MobileloopError
from mobileloop.families.registry import preset
from mobileloop.files import written_whole
from mobileloop.packed import PackedModel
from mobileloop.runtimes.engine import read_info
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule
from mobileloop_bench.machine.file import MachineFile, load
from mobileloop_bench.measure.plan import make_plan, open_artifacts
from mobileloop_bench.measure.rounds import measure
from mobileloop_bench.results.settings import Settings
from mobileloop_bench.timemodel.calibrate import measure_costs
from mobileloop_bench.timemodel.predict import Workload, predict
from mobileloop_bench.writing.lists import numbers
from mobileloop_bench.writing.table import Column, Table, print_table
from mobileloop_export.formats import exporter

MAX_LOOPS = 8
CONTEXT = 256


def small_config() -> ModelConfig:
    """50 million weights, which the last-level cache of a server holds: a third size below the presets."""
    base, _ = preset("mobilellm-125m")
    shape = {"hidden_size": 384, "intermediate_size": 1024, "num_blocks": 24, "num_heads": 6, "num_kv_heads": 2}
    return base.model_copy(update={"name": "small-50m", **shape})


def check_configs() -> list[ModelConfig]:
    """The three sizes that are predicted and measured."""
    return [small_config(), preset("smollm2-135m")[0], preset("mobilellm-350m")[0]]


@dataclass(frozen=True)
class Compared:
    """One configuration: predicted and measured time of a decoded token, `error` relative to the measured one."""

    model: str
    threads: int
    loops: int
    predicted_ms: float
    measured_ms: float

    @property
    def error(self) -> float:
        """Above 0 where the prediction is too slow."""
        return self.predicted_ms / self.measured_ms - 1


def median_error(compared: Sequence[Compared]) -> float:
    """Median of the absolute relative errors."""
    return statistics.median(abs(one.error) for one in compared)


def exported(config: ModelConfig, folder: Path) -> Path:
    """The model's artifact with every block up to `MAX_LOOPS` times in a row; made where it is not there yet."""
    schedule = Schedule.immediate(config.num_blocks, MAX_LOOPS)
    path = folder / f"{config.name}-immediate-{MAX_LOOPS}.safetensors"
    if path.is_file():
        found = read_info(path)
        if found.config.model_copy(update={"random_weights": config.random_weights}) == config:
            return path
    print(f"exporting {path} ...", file=sys.stderr)
    checkpoint = random_model(config, schedule)
    packed = PackedModel.from_checkpoint(checkpoint, "int4", schedule)
    info = ArtifactInfo.describe(checkpoint, packed, CONTEXT, 16)
    with written_whole(path) as temporary:
        exporter("engine")(packed, info, temporary, lambda step, done: None)
    return path


def compare(paths: Sequence[Path], machine: MachineFile, settings: Settings) -> list[Compared]:
    """Measure every configuration in interleaved rounds and predict it."""
    plan = make_plan(open_artifacts(paths), settings)
    found = []
    with progress_bars(by_thread=False) as update:
        measurement = measure(plan, lambda done, total, what: update("", done, total, what))
    for samples in measurement.samples:
        one = samples.configuration
        depth = settings.prompt_tokens + settings.decode_tokens // 2
        predicted = predict(Workload.of(one.artifact.info), machine, one.threads, one.loops, depth)
        model, measured = one.artifact.info.config.name, statistics.median(samples.decode_ms)
        found.append(Compared(model, one.threads, one.loops, predicted.ms, measured))
    return found


def print_compared(console: Console, compared: Sequence[Compared]) -> None:
    """A line each, and the median."""
    columns = [Column("model", left=True, name=True), Column("threads", context=True), Column("loops", context=True)]
    table = Table("Decode, ms per token", [*columns, *map(Column, ("predicted", "measured", "error"))])
    for one in compared:
        figures = (f"{one.predicted_ms:.2f}", f"{one.measured_ms:.2f}", f"{100 * one.error:+.1f}%")
        table.rows.append([one.model, str(one.threads), str(one.loops), *figures])
    print_table(console, table)
    print_text(console, f"Median absolute error {100 * median_error(compared):.1f}%.")


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; exit code 1 where the median error is beyond `--limit`."""
    parser = argparse.ArgumentParser(prog="mobileloop_bench.checks.prediction", description=__doc__)
    parser.add_argument(
        "--machine",
        type=Path,
        required=True,
        help="a machine file with a ladder, as mobileloop bandwidth --json writes it; costs it lacks are measured",
    )
    parser.add_argument("--folder", type=Path, default=Path("build"), help="where the models are kept (400 MB)")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--loops", default="1,2,4,8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=0.15, help="median absolute error that passes")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    chosen = parser.parse_args(arguments)
    try:
        machine = load(chosen.machine)
        settings = Settings(
            threads=numbers(chosen.threads, "--threads"),
            loops=numbers(chosen.loops, "--loops"),
            prompt_tokens=16,
            decode_tokens=16,
            repetitions=chosen.rounds,
        )
        chosen.folder.mkdir(parents=True, exist_ok=True)
        paths = [exported(config, chosen.folder) for config in check_configs()]
        if machine.costs is None:
            machine = machine.model_copy(update={"costs": measure_costs(settings.threads)})
        compared = compare(paths, machine, settings)
    except MobileloopError as error:
        print(f"prediction_check: {error}", file=sys.stderr)
        return error.exit_code
    print_compared(open_console(), compared)
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(one) for one in compared]) + "\n", encoding="utf-8")
    return 0 if median_error(compared) < chosen.limit else 1


if __name__ == "__main__":
    sys.exit(main())
