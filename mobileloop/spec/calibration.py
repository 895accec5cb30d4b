"""What an artifact says of the text that its weights were fitted with."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Calibration(BaseModel):
    """Enough to do it again, with the same source and the same version.

    Attributes:
        text: `packaged`, or the file's name.
        text_sha256: of its UTF-8 bytes.
        tokens: of it that were run.
        weights_sha256: of the quantized matrices, to tell whether doing it again gave the same.
        loops: that every looped stage ran; None is its own count.
        budget_bytes: what `--budget` allowed the weights to take; None where every matrix has the same number of bits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    text_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    tokens: int = Field(ge=1, strict=True)
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    loops: int | None = Field(default=None, ge=1, strict=True)
    budget_bytes: int | None = Field(default=None, ge=1, strict=True)
