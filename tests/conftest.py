"""Fixtures. Every test runs on tiny random models and without a network; only `real_source` wants a download."""

from __future__ import annotations

import os
from pathlib import Path

import cores
import pytest
import skips
from builders import TINY, packed_model, write_engine

from mobileloop.checkpoints.random import random_model

ROOT = Path(__file__).resolve().parents[1]
REAL_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


# Torch reads it when it is first imported; on tiny models its threads only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config):
    cores.install(config)
    skips.install(config)
    # A warning raised in our own code is an error; other packages may warn.
    for package in ("mobileloop", "mobileloop_export", "mobileloop_bench"):
        config.addinivalue_line("filterwarnings", f"error:::{package}(\\..*)?$")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """What calibrations find is not left in the cache folder of whoever runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def tiny_config():
    return TINY


@pytest.fixture
def tiny_checkpoint():
    """make(config=TINY, schedule=None, seed=0) -> Checkpoint with random weights."""

    def make(config=TINY, schedule=None, seed=0):
        return random_model(config, schedule, seed)

    return make


@pytest.fixture
def engine_artifact(tmp_path):
    """make(schedule=None, quantization="none", **more) -> (path, packed)."""
    count = 0

    def make(schedule=None, quantization="none", config=TINY, context=64, kv_bits=32, seed=0):
        nonlocal count
        count += 1
        checkpoint, packed = packed_model(config, schedule, quantization, seed)
        return write_engine(tmp_path / f"artifact{count}.safetensors", checkpoint, packed, context, kv_bits), packed

    return make


@pytest.fixture(scope="session")
def real_source():
    """Path of the real SmolLM2-135M-Instruct GGUF, or skip."""
    named = os.environ.get("MOBILELOOP_REAL_GGUF")
    if named:
        assert Path(named).is_file(), f"MOBILELOOP_REAL_GGUF names {named}, which does not exist"
        return Path(named)
    candidates = [ROOT / "demo" / REAL_NAME, Path.home() / ".cache" / "mobileloop" / REAL_NAME]
    for path in candidates:
        if path.is_file():
            return path
    pytest.skip(f"{REAL_NAME} is not there: set MOBILELOOP_REAL_GGUF, or put it at demo/{REAL_NAME}")
