"""What every artifact says about itself, in the same words whatever its file format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import safe_open

from mobileloop import __version__
from mobileloop.chat.turns import chat_turns
from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.errors import MobileloopError, validated
from mobileloop.packed import PackedModel
from mobileloop.quant.schemes import GROUP, GROUPS
from mobileloop.spec.calibration import Calibration
from mobileloop.spec.capabilities import check_built
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.costs import TokenBytes
from mobileloop.spec.schedule import Schedule
from mobileloop.spec.tokenizer import TokenizerSpec

FORMAT_VERSION = 3
RUNTIME_OF_SUFFIX = {".safetensors": "engine", ".pte": "executorch", ".onnx": "onnx"}


def _with_turns(spec: TokenizerSpec | None) -> TokenizerSpec | None:
    """The tokenizer with what its chat template puts around turns."""
    return spec and spec.model_copy(update={"turns": chat_turns(spec)})


class Costs(BaseModel):
    """Weight bytes of an artifact as its runtime reads them, padding left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block_bytes: tuple[Annotated[int, Field(ge=0)], ...]
    head_bytes: int = Field(ge=0)
    embedding_row_bytes: int = Field(ge=0)
    weight_bytes: int = Field(ge=0)


class ArtifactInfo(BaseModel):
    """The metadata of an artifact: enough to run it, to count its bytes and to say where it came from.

    `kv_bits` is 8 (int8 with scales), 16 (float16) or 32 (float32); `context` is the number of tokens that
    the KV cache holds; `calibration` says what the weights were fitted with, None where they were rounded; `notes` is
    what the loader and the exporter decided and the user was told.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = Field(ge=1, strict=True)
    tool_version: str
    config: ModelConfig
    schedule: Schedule
    quantization: str
    group: int = Field(default=GROUP, strict=True)
    context: int = Field(gt=0, le=1 << 20)
    kv_bits: int = Field(default=16, strict=True)
    source: str
    source_sha256: str
    costs: Costs
    tokenizer: TokenizerSpec | None = None
    calibration: Calibration | None = None
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> ArtifactInfo:
        if len(self.costs.block_bytes) != self.config.num_blocks:
            raise ValueError(f"costs name {len(self.costs.block_bytes)} blocks, the config {self.config.num_blocks}")
        if self.kv_bits not in (8, 16, 32):
            raise ValueError(f"kv_bits is {self.kv_bits}, but 8, 16 or 32 was expected")
        if self.group not in GROUPS:
            raise ValueError(f"group is {self.group}, but one of {', '.join(map(str, GROUPS))} was expected")
        return self

    @classmethod
    def describe(
        cls, checkpoint: Checkpoint, packed: PackedModel, context: int, kv_bits: int, notes: tuple[str, ...] = ()
    ) -> ArtifactInfo:
        """The metadata of an artifact about to be written; `notes` are those of the export itself.

        Raises:
            MobileloopError: where `context` is beyond the positions the model was made for.
        """
        if not 1 <= context <= packed.config.max_position:
            raise MobileloopError(
                f"context {context} is outside 1-{packed.config.max_position}, the positions of {packed.config.name}."
            )
        return cls(
            format_version=FORMAT_VERSION,
            tool_version=__version__,
            config=packed.config,
            schedule=packed.schedule,
            quantization=packed.quantization,
            group=packed.group,
            context=context,
            kv_bits=kv_bits,
            source=checkpoint.label,
            source_sha256=checkpoint.sha256,
            costs=Costs.model_validate(packed.costs()),
            tokenizer=_with_turns(checkpoint.tokenizer),
            notes=(*checkpoint.notes, *packed.notes, *notes),
            calibration=packed.calibration,
        )

    @classmethod
    def parse(cls, data: Any, where: str) -> ArtifactInfo:
        """Metadata read back from an untrusted file.

        Raises:
            MobileloopError: for a newer format version, or the first field that is wrong.
        """
        version = data.get("format_version") if isinstance(data, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise MobileloopError(
                f"{where} has format version {version}, but this mobileloop {__version__} reads up to "
                f"{FORMAT_VERSION}; upgrade mobileloop."
            )
        info = validated(cls, data, f"the metadata of {where}")
        check_built(info.schedule)
        info.schedule.check_blocks(info.config.num_blocks)
        info.schedule.check_halting(None, info.config.exit_gate)
        return info

    # -- bytes per decoded token (mobileloop.spec.costs has the formulas) -------------------------------

    @property
    def token_bytes(self) -> TokenBytes:
        """The formulas with this artifact's figures."""
        costs = self.costs
        outer = (costs.head_bytes, costs.embedding_row_bytes)
        return TokenBytes(self.config, self.schedule, costs.block_bytes, *outer, self.kv_bits)

    def unique_bytes(self) -> int:
        """Weight bytes read at least once per token."""
        return self.token_bytes.unique()

    def executed_bytes(self, loops: int | None = None) -> int:
        """Weight bytes touched per token, counted once per application."""
        return self.token_bytes.executed(loops)

    def kv_bytes(self, position: int, loops: int | None = None) -> int:
        """KV bytes read and written by the token at `position` (0-based)."""
        return self.token_bytes.kv(position, loops)

    def kv_capacity_bytes(self) -> int:
        """Bytes of the whole KV cache."""
        return self.token_bytes.kv_capacity(self.context)

    def activation_bytes(self, loops: int | None = None) -> int:
        """Activation bytes written and read once per token."""
        return self.token_bytes.activations(loops)


def runtime_of(path: str | Path) -> str:
    """`engine`, `executorch` or `onnx`, from the file's suffix.

    Raises:
        MobileloopError: for a missing file or another suffix.
    """
    path = Path(path)
    if path.is_dir():
        raise MobileloopError(f"{path} is a folder; artifacts are files that end in {', '.join(RUNTIME_OF_SUFFIX)}.")
    runtime = RUNTIME_OF_SUFFIX.get(path.suffix)
    if runtime is None:
        known = ", ".join(RUNTIME_OF_SUFFIX)
        source = "; it is a source: export it first" if path.suffix == ".gguf" else ""
        raise MobileloopError(f"{path} has no known suffix; artifacts end in {known}{source}.")
    if not path.is_file():
        raise MobileloopError(f"{path} does not exist; make it with mobileloop export.")
    return runtime


def check_replaced(path: Path) -> None:
    """Raise MobileloopError where an export would replace a safetensors file that is no artifact: weights, likely."""
    if path.suffix != ".safetensors" or not path.is_file() or path.stat().st_size == 0:
        return
    try:
        with safe_open(str(path), framework="np") as stored:
            ours = "mobileloop" in (stored.metadata() or {})
    except Exception:  # no safetensors at all; the library raises several kinds
        ours = False
    if not ours:
        raise MobileloopError(f"{path} is a file that mobileloop did not write; remove it or choose another output.")


def check_tokens(info: ArtifactInfo, position: int, count: int) -> None:
    """Raise MobileloopError where `count` more tokens do not fit behind `position`."""
    if count < 1:
        raise MobileloopError("there are no tokens to run; give a prompt.")
    if position + count > info.context:
        raise MobileloopError(
            f"{position + count} tokens do not fit the context of {info.context} this artifact was exported with; "
            "shorten the prompt or export again with a larger --context."
        )
