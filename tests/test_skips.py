"""The plugin of skips: the table of an ordinary run, failures under MOBILELOOP_TESTS=all, and what is excused."""

from pathlib import Path

import pytest
import skips

pytest_plugins = ["pytester"]

HERE = Path(__file__).parent
SUITE = """
import pytest

def test_passes():
    pass

@pytest.mark.skipif(True, reason="valgrind is not installed")
def test_of_a_tool():
    pass

@pytest.mark.parametrize("event", ["instructions"])
def test_a_thread_that_starts_later_is_counted(event):
    pytest.skip("perf_event_open of cycles was refused (Permission denied)")
"""


@pytest.fixture
def suite(pytester, monkeypatch):
    """run(whole, *options, text) -> the result of a small suite under the plugin."""
    pytester.makeconftest("import skips\n\ndef pytest_configure(config):\n    skips.install(config)\n")
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(whole, *options, text=SUITE):  # options of xdist need processes of their own
        if whole is None:
            monkeypatch.delenv(skips.VARIABLE, raising=False)
        else:
            monkeypatch.setenv(skips.VARIABLE, whole)
        pytester.makepyfile(test_suite=text)
        return pytester.runpytest_inprocess(*options) if options == () else pytester.runpytest_subprocess(*options)

    return run


def test_an_ordinary_run_passes_and_ends_with_a_table(suite):
    done = suite(None)
    done.assert_outcomes(passed=1, skipped=2)
    assert done.ret == 0
    done.stdout.fnmatch_lines(
        [
            "*what was skipped*",
            "    1  valgrind is not installed * install valgrind",
            "On Debian and Ubuntu `make test-tools` installs what is to be installed.",
            "*1 passed, 2 skipped*",
        ]
    )
    assert "nothing: virtual machines and" in done.stdout.str()


@pytest.mark.parametrize("options", [(), ("-p", "xdist", "-n", "2")])
def test_a_whole_run_fails_for_a_missing_tool(suite, options):
    done = suite("all", *options)
    done.assert_outcomes(passed=1, skipped=1, errors=1)
    assert done.ret == 1
    said = done.stdout.str()
    assert "test_of_a_tool was skipped: valgrind is not installed" in said
    assert "make test-tools" in said
    assert "nothing: virtual machines and" in said


def test_a_file_that_is_skipped_whole(suite):
    text = "import pytest\npytest.importorskip('no_such_package')\n\ndef test_one():\n    pass\n"
    done = suite(None, text=text)
    done.assert_outcomes(skipped=1)
    assert "no_such_package" in done.stdout.str()
    done = suite("all", text=text)
    done.assert_outcomes(errors=1)
    assert done.ret != 0
    assert "no_such_package" in done.stdout.str()


def test_a_skip_inside_a_fixture_and_an_expected_failure(suite):
    text = (
        "import pytest\n\n@pytest.fixture\ndef tool():\n    pytest.skip('no such tool')\n\n"
        "def test_one(tool):\n    pass\n\n@pytest.mark.xfail\ndef test_two():\n    assert False\n"
    )
    suite(None, text=text).assert_outcomes(skipped=1, xfailed=1)
    suite("all", text=text).assert_outcomes(errors=1, xfailed=1)


def test_an_excuse_is_for_one_reason_of_one_test(suite):
    text = (
        "import pytest\n\ndef test_a_thread_that_starts_later_is_counted():\n    pytest.skip('duckdb is missing')\n\n"
        "def test_other():\n    pytest.skip('perf_event_open was refused')\n"
    )
    suite("all", text=text).assert_outcomes(failed=2)


def test_another_value_is_refused(suite):
    done = suite("some")
    assert done.ret == 4
    assert "MOBILELOOP_TESTS is 'some'" in done.stderr.str()


def test_every_excused_test_exists():
    text = "\n".join(path.read_text() for path in HERE.glob("test_*.py"))
    assert [name for name in skips.EXCUSED if f"def {name}(" not in text] == []


def test_what_is_skipped_is_told_by_its_tool():
    assert skips.remedy("'qemu-aarch64' was not found, and counting needs it") == "install qemu-user"
    assert skips.remedy("the cross compiler aarch64-linux-gnu-g++ is not installed") == "install g++-aarch64-linux-gnu"
    assert skips.remedy("set MOBILELOOP_REAL_GGUF") == ""


def test_the_table_is_80_wide():
    lines = skips.table({("word " * 40, "install " + "package " * 20): 12, ("short", ""): 3})
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("   12  word")
    assert lines[-1] == "    3  short"
