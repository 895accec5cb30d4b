"""The plugin of workers: order, what stays together, and tests that run alone."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

HERE = Path(__file__).parent
# Each test writes when it began and ended; the alone one must overlap with none.
SUITE = """
import os, pathlib, time
import pytest

LOG = pathlib.Path(os.environ["CORES_LOG"])

@pytest.fixture(autouse=True)
def noted(request):
    began = time.monotonic()
    yield
    time.sleep(0.05)
    with LOG.open("a") as log:
        log.write(f"{request.node.name} {os.getpid()} {began} {time.monotonic()}\\n")

@pytest.mark.alone
def test_alone():
    time.sleep(0.2)

@pytest.mark.parametrize("n", range(4))
def test_first(n):
    pass

@pytest.mark.parametrize("n", range(4))
def test_second(n):
    pass

@pytest.mark.long
def test_long():
    pass
"""


@pytest.fixture
def log(pytester, monkeypatch):
    """run(*options) -> [(test, process, began, ended)] in order of their beginning."""
    pytester.makeconftest("import cores\n\ndef pytest_configure(config):\n    cores.install(config)\n")
    pytester.makepyfile(test_suite=SUITE)
    path = pytester.path / "log"
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("CORES_LOG", str(path))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(*options):
        pytester.runpytest_subprocess("-p", "no:cacheprovider", *options).assert_outcomes(passed=10)
        lines = [line.split() for line in path.read_text().splitlines()]
        return sorted(
            ((name, process, float(began), float(ended)) for name, process, began, ended in lines),
            key=lambda one: one[2],
        )

    return run


def test_one_process_runs_the_long_first_and_the_alone_last(log):
    names = [name for name, *_ in log()]
    assert (names[0], names[1], names[-1]) == ("test_long", "test_first[0]", "test_alone")


def test_workers(log):
    found = log("-p", "xdist", "-n", "2")
    assert len({process for _, process, *_ in found}) == 2
    for function in ("test_first", "test_second"):
        assert len({process for name, process, *_ in found if name.startswith(function)}) == 1
    (_, _, began, ended), *_ = [one for one in found if one[0] == "test_alone"]
    beside = [name for name, _, other, end in found if name != "test_alone" and other < ended and end > began]
    assert beside == []
