"""The JSON document of a measurement, read back as strictly as it is written.

Keys are fixed; others may be added and are kept. An unknown figure is null, never infinity or NaN.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt

from mobileloop import __version__
from mobileloop.artifact import written_whole
from mobileloop.errors import MobileloopError, validated
from mobileloop_bench.bandwidth import Bandwidth
from mobileloop_bench.machine import Machine
from mobileloop_bench.memory import Memory
from mobileloop_bench.plan import Settings

SCHEMA_NAME, SCHEMA_VERSION = "mobileloop.bench", 1
SKIPPED = "skipped: "
Phase = Literal["load", "prefill", "decode"]


class Result(BaseModel):
    """One phase of one configuration.

    Attributes:
        loops: loops of the looped stages.
        samples_ms: every raw time: of a load, of a whole prefill, of every single decoded token.
        tokens_per_s: decode 1000 / median_ms; prefill prompt tokens per second; load null.
        unique_bytes: weight bytes read at least once per token.
        executed_bytes: weight bytes touched per token, counted once per application.
        kv_bytes: KV bytes read and written per token, all applications: decode at the middle of the decoded
            tokens, prefill by its last token, load null.
        read_gbps: decode (unique_bytes + kv_bytes) / median time, in 1e9 bytes per second: what must come from
            memory if every block is resident while it is applied again. Null for load and for prefill, which
            reads a block once for many tokens and is bound by arithmetic.
        executed_gbps: decode (executed_bytes + kv_bytes) / median time: what the kernels consumed, from
            whatever cache. Above the read bandwidth it proves that blocks were re-read from cache.
        ceiling_gbps: the measured read bandwidth of as many threads.
        loop_tax: decode median over that of 1 loop, same artifact, threads and run; null without the latter.
        valid: False where `reasons` holds anything; the times are then kept for inspection only.
    """

    model_config = ConfigDict(extra="allow")

    artifact: str
    runtime: str
    model: str
    quantization: str
    loops: int = Field(ge=1)
    threads: int = Field(ge=1)
    phase: Phase
    samples_ms: list[FiniteFloat]
    median_ms: FiniteFloat | None
    tokens_per_s: FiniteFloat | None
    unique_bytes: NonNegativeInt | None
    executed_bytes: NonNegativeInt | None
    kv_bytes: NonNegativeInt | None
    read_gbps: FiniteFloat | None
    valid: bool
    reasons: list[str]
    p10_ms: FiniteFloat | None = None
    p90_ms: FiniteFloat | None = None
    executed_gbps: FiniteFloat | None = None
    ceiling_gbps: FiniteFloat | None = None
    ceiling_tokens_per_s: FiniteFloat | None = None
    loop_tax: FiniteFloat | None = None
    repetitions: int | None = None
    context_tokens: int | None = None
    schedule: str | None = None
    activation_bytes: NonNegativeInt | None = None
    size_on_disk_bytes: NonNegativeInt | None = None
    random_weights: bool | None = None
    source: str | None = None
    source_sha256: str | None = None
    memory: Memory | None = None
    other_cores: FiniteFloat | None = None
    stolen_cores: FiniteFloat | None = None
    details: dict[str, str] = {}

    @property
    def skipped(self) -> bool:
        """Asked for and not run: the loop count is beyond the artifact's bound."""
        return not self.samples_ms and any(reason.startswith(SKIPPED) for reason in self.reasons)

    @property
    def ceiling_share(self) -> float | None:
        """read_gbps over the measured read bandwidth; beyond 1 the weights came from a cache."""
        return self.read_gbps / self.ceiling_gbps if self.read_gbps is not None and self.ceiling_gbps else None


class Document(BaseModel):
    """One run of `mobileloop bench`."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    schema_: str = Field(default=f"{SCHEMA_NAME}/{SCHEMA_VERSION}", alias="schema")
    machine: Machine
    results: list[Result]
    bandwidth: list[Bandwidth] = []
    settings: Settings | None = None
    command: str | None = None
    interrupted: bool = False

    def to_json(self) -> str:
        """One compact line."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), allow_nan=False, separators=(",", ":"))

    def write(self, path: Path) -> None:
        """Write the document whole or not at all."""
        with written_whole(path) as temporary:
            temporary.write_text(self.to_json() + "\n", encoding="utf-8")


def read_document(path: Path) -> Document:
    """Read a document back.

    Raises:
        MobileloopError: for a file that cannot be read, is not such a document, or is of a newer schema.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise MobileloopError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise MobileloopError(f"{path} is not text, so it is no result of mobileloop bench.") from None
    try:
        data = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise MobileloopError(f"{path} is not JSON ({error}); measure again with mobileloop bench --json.") from None
    _check_schema(data, path)
    return validated(Document, data, f"the result {path}")


def _check_schema(data: Any, path: Path) -> None:
    schema = data.get("schema") if isinstance(data, dict) else None
    match = re.fullmatch(rf"{re.escape(SCHEMA_NAME)}/(\d{{1,9}})", schema) if isinstance(schema, str) else None
    if not match:
        raise MobileloopError(f"{path} is no result of mobileloop bench; its schema is not {SCHEMA_NAME}.")
    if int(match[1]) > SCHEMA_VERSION:
        raise MobileloopError(
            f"{path} has schema {schema}, but this mobileloop {__version__} reads up to "
            f"{SCHEMA_NAME}/{SCHEMA_VERSION}; upgrade mobileloop."
        )


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}")
