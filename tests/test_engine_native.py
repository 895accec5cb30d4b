"""Runs the engine's own tests: plain, and under the sanitizers."""

import pytest
from programs import KINDS, engine_tests, run, sanitized

pytestmark = pytest.mark.long


@pytest.fixture(params=KINDS)
def folder(request):
    return engine_tests(request.param)


@pytest.mark.parametrize("name", ["engine_tests", "topology_tests"])
def test_engine_tests(folder, name):
    tested = sanitized(run(folder / name))
    assert tested.returncode == 0, f"{tested.stdout[-4000:]}\n{tested.stderr[-6000:]}"
    assert tested.stdout.rstrip().endswith("passed, 0 failed")
