"""Devices on the screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from mobileloop_bench.devices.describe import Device
from mobileloop_bench.writing.table import Column, Table, print_table
from mobileloop_bench.writing.units import UNKNOWN, figure, megabytes


def print_devices(console: Console, devices: Sequence[Device]) -> None:
    """A row for each."""
    columns = [Column("serial", left=True, name=True)]
    columns += [Column(name, left=True, context=True) for name in ("state", "model", "SoC", "Android")]
    table = Table("", [*columns, *map(Column, ("cores", "free", "temperature", "battery"))])
    for one in devices:
        warm = figure(one.celsius, "°C") + (f" ({one.zone})" if one.zone else "")
        cells = [one.serial, one.state, *(text or UNKNOWN for text in (one.model, one.soc, one.android))]
        cells += [UNKNOWN if one.cores is None else str(one.cores), megabytes(one.free_bytes), warm]
        table.rows.append([*cells, UNKNOWN if one.battery_percent is None else f"{one.battery_percent}%"])
    print_table(console, table)
