"""What an Android build says of itself and of the phone it runs on."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mobileloop_bench.machine.sysfs import ROOT, read_text

BUILD_FILES = ("system/build.prop", "vendor/build.prop")


class Android(BaseModel):
    """The build that a figure was measured on; what it does not tell is null."""

    model_config = ConfigDict(extra="allow")

    device: str | None = None
    release: str | None = None
    api_level: int | None = None
    security_patch: str | None = None
    fingerprint: str | None = None


def read_properties(root: Path = ROOT) -> dict[str, str]:
    """System properties of Android, by `getprop` or from the build's files; none on other systems."""
    if root == ROOT and shutil.which("getprop"):
        try:
            done = subprocess.run(["getprop"], capture_output=True, text=True, errors="replace", timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return {}
        return dict(re.findall(r"^\[(.+?)\]: \[(.*?)\]$", done.stdout, re.M))
    text = "\n".join(read_text(root / name) or "" for name in BUILD_FILES)
    return dict(re.findall(r"^([\w.]+)=(.*)$", text, re.M))


def android_build(properties: Mapping[str, str]) -> Android | None:
    """The build behind the properties; None where this is no Android."""
    release = properties.get("ro.build.version.release")
    level = properties.get("ro.build.version.sdk", "")
    device = " ".join(filter(None, (properties.get(f"ro.product.{name}") for name in ("manufacturer", "model"))))
    if not release and not level:
        return None
    return Android(
        device=device or None,
        release=release or None,
        api_level=int(level) if re.fullmatch(r"[0-9]{1,4}", level) else None,
        security_patch=properties.get("ro.build.version.security_patch") or None,
        fingerprint=properties.get("ro.build.fingerprint") or None,
    )
