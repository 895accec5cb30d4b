"""The registry of families: which file reads which `model_type`, and the presets of all of them."""

from __future__ import annotations

from mobileloop.errors import MobileloopError, printable
from mobileloop.families import llama, mobilellm
from mobileloop.families.family import Family
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule

FAMILIES = (llama.FAMILY, mobilellm.FAMILY)


def family_of(model_type: object, where: str) -> Family:
    """The family that reads `model_type`.

    Raises:
        MobileloopError: for a family this version does not read.
    """
    known = {family.model_type: family for family in FAMILIES}
    if not isinstance(model_type, str) or model_type not in known:
        raise MobileloopError(
            f"{where} has model_type '{printable(str(model_type))}', which is not supported; supported are "
            f"{', '.join(sorted(known))}."
        )
    return known[model_type]


def preset_names() -> list[str]:
    """Every preset, in the order `--help` lists them."""
    return [name for family in FAMILIES for name in family.presets]


def preset(name: str) -> tuple[ModelConfig, Schedule]:
    """The config and schedule of a preset.

    Raises:
        MobileloopError: for an unknown name, listing the known ones.
    """
    known = {own: make for family in FAMILIES for own, make in family.presets.items()}
    if name not in known:
        raise MobileloopError(f"the preset '{name}' is not known; choose one of {', '.join(known)}.")
    return known[name]()
