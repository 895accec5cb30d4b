"""List, set up and measure phones and boards over adb."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobileloop.commands.options import check_range
from mobileloop.console import INTERRUPTED, open_console, print_text, progress_bars, say
from mobileloop.errors import MobileloopError
from mobileloop.files import text_of
from mobileloop_bench.commands.bench import DecodeTokens, Loops, PromptTokens, Repetitions, say_document

if TYPE_CHECKING:
    from mobileloop_bench.devices.run import Outcome

SCHEMA = "mobileloop.devices/1"

device = typer.Typer(
    name="device",
    no_args_is_help=True,
    help="List, set up and measure phones and boards over adb (docs/devices.md).\n\n\b\nExamples:\n"
    "  mobileloop device list\n"
    "  mobileloop device setup model.safetensors\n"
    "  mobileloop device bench model.safetensors --loops 1,2 --json phone.json",
    rich_markup_mode=None,
)

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Engine artifacts (.safetensors).")]
Serials = Annotated[
    list[str] | None,
    typer.Option(
        "--device", metavar="SERIAL", help="Which device, as mobileloop device list names it; repeatable; or all."
    ),
]
Engine = Annotated[
    Path | None,
    typer.Option(help="The mobileloop-engine to push (default: what make engine-arm64 built under build/)."),
]


@device.command(name="list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show every device that adb sees, with what it is and how warm.

    \b
    Examples:
      mobileloop device list
      mobileloop device list --json
    """
    from mobileloop_bench.devices.adb import Adb, list_devices
    from mobileloop_bench.devices.describe import describe
    from mobileloop_bench.devices.table import print_devices

    found = [describe(Adb(one.serial), one) for one in list_devices()]
    if as_json:
        listed = [one.model_dump(mode="json") for one in found]
        typer.echo(json.dumps({"schema": SCHEMA, "devices": listed}, allow_nan=False))
    elif found:
        print_devices(open_console(), found)
    else:
        say("adb sees no device; plug one in with USB debugging switched on (docs/devices.md).")


@device.command()
def setup(files: Files, devices: Serials = None, engine: Engine = None) -> None:
    """Put the standalone program and artifacts on devices, and try them.

    What a device already has with the right content is not pushed again.

    \b
    Examples:
      mobileloop device setup model.safetensors
      mobileloop device setup model.safetensors --device R5CT10ABCDE --engine build/engine-arm64-zig/mobileloop-engine
    """
    from mobileloop_bench.devices.adb import Adb, Listed, choose
    from mobileloop_bench.devices.describe import describe
    from mobileloop_bench.devices.install import find_engine, install, open_files, payload

    opened = open_files(files)
    for serial in choose(devices):
        adb = Adb(serial)
        with progress_bars() as progress:
            program = payload(find_engine(describe(adb, Listed(serial, "device")), engine), "")
            pushed = install(adb, program, opened, lambda what: progress(serial, 0, 0, what))  # noqa: B023
        told = f"pushed {', '.join(pushed)}" if pushed else "everything was there"
        say(f"{serial}: {told}; ready.")


Threads = Annotated[
    str | None, typer.Option(metavar="LIST", help="Thread counts, such as 1,2,4 (default: 1 and all big cores).")
]
Cpus = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Run on these cpus of the device, such as 4-7: one thread on each where there are as many, else every "
        "thread on any of them.",
    ),
]
MaxTemperature = Annotated[
    float | None,
    typer.Option(metavar="C", help="Begin a turn only at or below so many °C of skin, battery or processor."),
]
Cooldown = Annotated[
    float, typer.Option(metavar="S", help="Longest wait for --max-temperature; the turn then runs and is flagged.")
]
Wait = Annotated[float, typer.Option(metavar="S", help="How long a device that vanished is waited for, each time.")]
Bandwidth = Annotated[bool, typer.Option(help="Measure the read bandwidth of every thread count too.")]
JsonOut = Annotated[
    Path | None,
    typer.Option("--json", metavar="OUT", help="Also write the JSON here, after every turn; resumable."),
]


@device.command()
def bench(
    files: Files,
    devices: Serials = None,
    engine: Engine = None,
    threads: Threads = None,
    loops: Loops = None,
    cpus: Cpus = None,
    max_temperature: MaxTemperature = None,
    cooldown: Cooldown = 300.0,
    wait: Wait = 600.0,
    prompt_tokens: PromptTokens = 128,
    decode_tokens: DecodeTokens = 64,
    repetitions: Repetitions = 5,
    bandwidth: Bandwidth = True,
    json_out: JsonOut = None,
) -> None:
    """Measure artifacts on devices in interleaved rounds.

    Sets a device up where needed. Each turn is one process on the device; its
    result is pulled at once. With --json, OUT is rewritten after every turn
    and OUT.turns keeps the raw turns until the end: after Ctrl-C, a lost
    device or a crash the same command goes on with the next turn. With
    several devices the serial is part of the name: OUT-SERIAL.json. In a pipe
    the last lines are one JSON document per device.

    \b
    Examples:
      mobileloop device bench model.safetensors --json phone.json
      mobileloop device bench model.safetensors --threads 1,4 --cpus 4-7 --max-temperature 37 --json phone.json
      mobileloop device bench a.safetensors b.safetensors --loops 1,2,4 --device all --json phones.json
    """
    from mobileloop.files import check_output
    from mobileloop.runtimes.topology import parse_cpus
    from mobileloop_bench.devices.adb import choose
    from mobileloop_bench.devices.install import open_files
    from mobileloop_bench.devices.run import Order, measure_devices
    from mobileloop_bench.results.settings import Settings
    from mobileloop_bench.writing.lists import numbers

    if max_temperature is not None:
        check_range("--max-temperature", max_temperature, 1, 150)
    check_range("--cooldown", cooldown, 0, 86400)
    check_range("--wait", wait, 0, 86400)
    if json_out is not None:
        check_output(json_out, (*files, engine))
    order = Order(
        files=open_files(files),
        settings=Settings(
            threads=[] if threads is None else numbers(threads, "--threads"),
            loops=None if loops is None else numbers(loops, "--loops"),
            prompt_tokens=prompt_tokens,
            decode_tokens=decode_tokens,
            repetitions=repetitions,
            cpus=None if cpus is None else parse_cpus(cpus),
        ),
        engine=engine,
        max_celsius=max_temperature,
        cooldown_s=cooldown,
        wait_s=wait,
        with_bandwidth=bandwidth,
        command=text_of(shlex.join(["mobileloop", *sys.argv[1:]])),
    )
    order.check()
    serials = choose(devices)
    outs = {} if json_out is None else _outs(json_out, serials)
    with progress_bars() as progress:
        outcomes = measure_devices(serials, order, outs, progress)
    _show(outcomes, outs, resumable=json_out is not None)


def _show(outcomes: Sequence[Outcome], outs: Mapping[str, Path], resumable: bool) -> None:
    """Tables, documents, what failed; the exit code of the command."""
    from mobileloop_bench.results.table import print_results

    console = open_console()
    documents = {one.serial: one.document for one in outcomes if one.document is not None}
    for serial, document in documents.items():
        print_text(console, f"{serial}:")
        print_results(console, document)
    for serial, document in documents.items():
        say_document(document, outs.get(serial))
    failed = [one for one in outcomes if one.error is not None]
    for one in failed:
        again = " The same command goes on where this one stopped." if resumable else ""
        say(f"mobileloop: {one.error}{again}", err=True)
    if failed:
        raise typer.Exit(2)
    if any(document.interrupted for document in documents.values()) or len(documents) < len(outcomes):
        raise typer.Exit(INTERRUPTED)


def _outs(out: Path, serials: Sequence[str]) -> dict[str, Path]:
    """A result file per device; with several, the serial is part of its name."""
    if len(serials) == 1:
        return {serials[0]: out}
    outs: dict[str, Path] = {}
    for serial in serials:
        safe = re.sub(r"[^A-Za-z0-9.-]", "_", serial)
        path = out.with_name(f"{out.stem}-{safe}{out.suffix}")
        if path in outs.values():
            raise MobileloopError(f"two devices would both write {path}; measure them one after the other.")
        outs[serial] = path
    return outs
