"""What an exporter is, and what every one of them checks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from mobileloop.artifact import ArtifactInfo
from mobileloop.packed import PackedModel
from mobileloop.spec.capabilities import Asked, check_runs

Progress = Callable[[str, float], None]


class Exporter(Protocol):
    """`write(packed, info, path, progress)`: write the artifact to `path`, which did not exist before.

    `progress` is called with a step's name and the share done, 0 to 1.
    """

    def __call__(self, packed: PackedModel, info: ArtifactInfo, path: Path, progress: Progress) -> None: ...


def check_carried(packed: PackedModel, info: ArtifactInfo, target: str) -> None:
    """Raise MobileloopError where the runtime of a format does not run what the artifact would ask for."""
    check_runs(f"the schedule {packed.schedule.name}", target, Asked(packed.schedule))
    check_runs("the export", target, Asked(kv_bits=info.kv_bits, group=packed.group))
