"""A session that computes nothing, and an artifact to open it with; shared by the tests of the bench."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from mobileloop import runtimes
from mobileloop.artifact import ArtifactInfo
from mobileloop.checkpoints.random import random_model
from mobileloop.packed import PackedModel
from mobileloop.runtimes.base import F32, Session
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule
from mobileloop_bench.bandwidth.ceiling import Bandwidth
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.measure.memory import memory_key
from mobileloop_bench.measure.plan import Plan, make_plan, open_artifacts
from mobileloop_bench.measure.samples import Measurement, Samples
from mobileloop_bench.measure.summary import make_document
from mobileloop_bench.results.document import Document
from mobileloop_bench.results.result import Memory
from mobileloop_bench.results.settings import Settings

VOCAB = 64


def tiny_info(max_loops: int = 4, context: int = 48) -> ArtifactInfo:
    config = ModelConfig(
        name="tiny",
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_blocks=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        max_position=64,
    )
    checkpoint = random_model(config, Schedule.immediate(2, max_loops))
    return ArtifactInfo.describe(checkpoint, PackedModel.from_checkpoint(checkpoint), context=context, kv_bits=16)


class FakeSession(Session):
    """Logs what it was asked to do; `stop_at` evaluations later the user presses Ctrl-C."""

    runtime = "engine"
    log: ClassVar[list[tuple[str, str, int, int, tuple[int, ...]]]] = []
    stop_at: ClassVar[int | None] = None
    info_of = staticmethod(tiny_info)

    def __init__(self, path: Path, threads: int = 0, loops: int | None = None) -> None:
        super().__init__(Path(path), self.info_of(), threads, loops)
        self._note("open")

    def _note(self, what: str, tokens: Sequence[int] = ()) -> None:
        FakeSession.log.append((what, self.path.name, self.threads, self.loops, tuple(tokens)))

    def _evaluate(self, tokens: Sequence[int], all_logits: bool) -> F32:
        if FakeSession.stop_at is not None:
            FakeSession.stop_at -= 1
            if FakeSession.stop_at < 0:
                raise KeyboardInterrupt
        self._note("run", tokens)
        return np.zeros((len(tokens) if all_logits else 1, VOCAB), np.float32)

    def _clear(self) -> None:
        self._note("reset")

    def details(self) -> dict[str, str]:
        return {"kernel": "none"}

    def close(self) -> None:
        self._note("close")


@pytest.fixture(name="fake_artifact")
def open_fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that opens as a FakeSession."""
    monkeypatch.setattr(
        runtimes,
        "open_session",
        lambda path, *, threads=0, loops=None, **more: FakeSession(path, threads, loops),
    )
    monkeypatch.setattr(FakeSession, "log", [])
    monkeypatch.setattr(FakeSession, "stop_at", None)
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(b"not really")
    return path


def small_settings(**changes: object) -> Settings:
    values = {"threads": [1, 2], "loops": [1, 2], "prompt_tokens": 8, "decode_tokens": 4, "repetitions": 5}
    return Settings.model_validate({**values, **changes})


def plan_of(path: Path, **changes: object) -> Plan:
    return make_plan(open_artifacts([path]), small_settings(**changes))


def made_up_measurement(plan: Plan) -> Measurement:
    """Samples as a steady machine would give them: 10 ms, and 1.2 ms more per further loop."""
    filled = []
    for one in plan.configurations:
        decode = (10 + 1.2 * (one.loops - 1)) / one.threads
        count = plan.settings.repetitions
        steady = [decode + 0.01 * (i % 3) for i in range(count * plan.settings.decode_tokens)]
        times = {"load_ms": [5.0] * count, "first_token_ms": [9.0] * count, "prefill_ms": [20.0] * count}
        filled.append(Samples(one, **times, decode_ms=steady))
    return Measurement(plan, filled)


def made_up_document(plan: Plan, machine: Machine | None = None) -> Document:
    bandwidth = [
        Bandwidth(threads=threads, size_bytes=1 << 28, read_gbps=0.001 * threads, beyond_last_level_cache=True)
        for threads in plan.settings.threads
    ]
    memory = {memory_key(one): Memory(delta_anonymous_bytes=1 << 20) for one in plan.configurations}
    machine = machine or Machine(cpu="a processor", cores_usable=2, libraries={"numpy": "2.0"})
    return make_document(made_up_measurement(plan), machine, bandwidth, memory, "mobileloop bench tiny.safetensors")
