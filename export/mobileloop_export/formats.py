"""Exporters: a packed model becomes a file, one module per format."""

from __future__ import annotations

from mobileloop.errors import MobileloopError
from mobileloop_export.contract import Exporter

FORMATS = {"engine": ".safetensors", "executorch": ".pte", "onnx": ".onnx"}


def exporter(target: str) -> Exporter:
    """The exporter of a format; its own dependencies are imported only here.

    Raises:
        MobileloopError: for an unknown format, or an extra that is not installed.
    """
    if target not in FORMATS:
        raise MobileloopError(f"the format '{target}' is not known; choose one of {', '.join(FORMATS)}.")
    try:
        if target == "engine":
            from mobileloop_export.engine import write
        elif target == "executorch":
            from mobileloop_export.executorch import write
        else:
            from mobileloop_export.onnx.model import write
    except ModuleNotFoundError as error:
        raise MobileloopError(
            f"exporting to {target} needs {error.name}; install it with: pip install '.[{target}]'."
        ) from None
    return write
