"""What an exporter is, and what every one of them checks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from mobileloop.artifact import ArtifactInfo
from mobileloop.errors import MobileloopError
from mobileloop.packed import PackedModel

Progress = Callable[[str, float], None]


class Exporter(Protocol):
    """`write(packed, info, path, progress)`: write the artifact to `path`, which did not exist before.

    `progress` is called with a step's name and the share done, 0 to 1.
    """

    def __call__(self, packed: PackedModel, info: ArtifactInfo, path: Path, progress: Progress) -> None: ...


def check_carried(
    packed: PackedModel, info: ArtifactInfo, target: str, kv_bits: tuple[int, ...], groups: tuple[int, ...]
) -> None:
    """Raise MobileloopError where a format cannot say what the engine's own can."""
    packed.schedule.check_carried(target)
    if info.kv_bits not in kv_bits:
        raise MobileloopError(
            f"a KV cache of {info.kv_bits} bits is not something the {target} export carries; choose another --kv, "
            "or export with --to engine."
        )
    if packed.group not in groups:
        raise MobileloopError(
            f"weights in groups of {packed.group} are not something the {target} export carries; choose another "
            "--group, or export with --to engine."
        )
