"""Every table of every command on terminals of three widths, drawn by a terminal emulator, and in a pipe.

The screens at 80 columns are kept in tests/data/screens. `python tests/test_commands_screens.py` renews them: look at
them before they are committed.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from functools import cache
from pathlib import Path

import pytest
from screens import KEPT, SCREENS, shown

from mobileloop import console
from mobileloop_bench.writing.markdown import markdown_table
from mobileloop_bench.writing.table import SHORTEST_NAME, Column, Notes, Table, without_middle

pyte = pytest.importorskip("pyte", reason="pip install -e '.[dev]'")

WIDTHS = (80, 100, 200)
APART = {"artifact", "configuration", "serial"}  # headers of names, which have none where they stand apart
HERE = Path(__file__).resolve().parent


def environment() -> dict[str, str]:
    without = {"COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR"}
    return {**{k: v for k, v in os.environ.items() if k not in without}, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}


def written_to_terminal(command: list[str], width: int, cwd: str) -> str:
    """What a command writes to a terminal of this width, control sequences and all."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, cwd=cwd, env=environment())
    os.close(its)
    pieces = []
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # Linux says EIO where the other end is closed
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(ours)
    text = b"".join(pieces).decode()
    assert process.wait() == 0, text
    return text


@cache
def displayed(text: str, width: int) -> tuple[str, ...]:
    """The lines that a terminal shows, however far it scrolled."""
    screen = pyte.Screen(width, text.count("\n") * 4 + 10)
    pyte.Stream(screen).feed(text)
    return tuple("\n".join(line.rstrip() for line in screen.display).rstrip("\n").splitlines())


@cache
def raw(width: int | None) -> str:
    """All screens at once, which costs one start of Python; None is a pipe."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE / "screens.py"), folder]
        if width is not None:
            return written_to_terminal(command, width, folder)
        return subprocess.run(
            command, cwd=folder, env={**environment(), "COLUMNS": "80"}, stdout=subprocess.PIPE, text=True, check=True
        ).stdout


@cache
def screens(width: int | None) -> dict[str, list[str]]:
    return shown(raw(None) if width is None else "\n".join(displayed(raw(width), width)))


def words(lines: list[str]) -> set[str]:
    """What a reader can read: no rules, and no commas of sentences."""
    return {word.strip(",.") for line in lines for word in line.split() if set(word) != {"─"}}


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_wrapped_by_the_terminal_and_none_is_blank(width: int) -> None:
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw(width)).replace("\r", "")
    assert tuple(line.rstrip() for line in plain.splitlines()) == displayed(raw(width), width)
    for name, lines in screens(width).items():
        assert lines, name
        assert all(lines), f"{name} at {width} columns has an empty line"


@pytest.mark.parametrize("name", SCREENS)
def test_a_terminal_shows_every_word_that_a_pipe_does(name: str) -> None:
    whole = words(screens(None)[name]) - APART
    for width in WIDTHS:
        missing = {word for word in whole - words(screens(width)[name]) if not shortened(word, screens(width)[name])}
        assert missing == set(), f"at {width} columns"


def shortened(word: str, lines: list[str]) -> bool:
    """Whether a long name stands there without its middle."""
    cut = [part for line in lines for part in line.split() if "…" in part and len(part) >= SHORTEST_NAME]
    return any(word.startswith(part.partition("…")[0]) and word.endswith(part.partition("…")[2]) for part in cut)


def test_in_a_pipe_nothing_is_shortened_and_no_row_is_split() -> None:
    assert "…" not in raw(None)
    lines = screens(None)["bench"]
    head = next(i for i, line in enumerate(lines) if "decode tok/s" in line)
    for column in ("artifact", "loops", "threads", "prefill tok/s", "GB/s", "of ceiling", "loop tax", "valid"):
        assert column in lines[head]
    rows = lines[head + 2 : lines.index("1: spread")]
    assert len(rows) == 22
    for row in rows:
        assert re.search(r" (yes|no 1)$", row), row
    assert max(map(len, lines)) > 100


@pytest.mark.parametrize("name", SCREENS)
def test_the_screens_at_80_columns(name: str) -> None:
    assert "\n".join(screens(80)[name]) + "\n" == (KEPT / f"{name}.txt").read_text(encoding="utf-8")


def test_no_screen_is_kept_that_is_not_shown() -> None:
    assert {path.stem for path in KEPT.glob("*.txt")} == set(SCREENS)
    assert set(screens(80)) == set(SCREENS)


# -- the table ------------------------------------------------------------------------------------------

WIDE = Table(
    "Measured",
    [Column("artifact", left=True, name=True), Column("loops", context=True), *map(Column, ("decode tok/s", "GB/s"))],
    [[f"a-rather-long-name-of-a-model-{n}.safetensors", "2", "12.3", "1.0"] for n in range(2)],
)


def test_what_is_the_same_in_all_rows_is_said_once() -> None:
    lines = WIDE.lines(200)
    assert lines[:2] == ["Measured", "In all rows: loops 2."]
    assert lines[2].split() == ["artifact", "decode", "tok/s", "GB/s"]
    assert len(lines) == 6


@pytest.mark.parametrize("width", range(40, 130))
def test_no_width_cuts_a_cell(width: int) -> None:
    lines = WIDE.lines(width)
    assert all(len(line) <= width for line in lines)
    assert sum(line.split()[-2:] == ["12.3", "1.0"] for line in lines) == 2


def test_names_that_would_look_the_same_are_not_shortened() -> None:
    def table(middle: bool) -> Table:
        rows = [[f"model-{'x' * 20}{n}{'y' * 20 * middle}.bin", "1" * 20] for n in range(3)]
        return Table("", [Column("artifact", left=True, name=True), Column("n")], rows)

    assert any("…" in line for line in table(middle=False).lines(45))
    told = table(middle=True).lines(45)
    assert not any("…" in line for line in told)
    assert sum(line.strip() == "1" * 20 for line in told) == 3


def test_a_table_without_a_name_takes_several_lines_for_a_row() -> None:
    table = Table("", [Column(f"column{n}") for n in range(9)], [[str(n) * 8 for n in range(9)]] * 2)
    lines = table.lines(40)
    assert all(len(line) <= 40 for line in lines)
    assert " ".join(lines).split().count("88888888") == 2


def test_a_cell_wider_than_the_screen_is_filled() -> None:
    lines = Table("", [Column("reason", left=True), Column("n")], [["many words " * 12, "1"]]).lines(40)
    assert all(len(line) <= 40 for line in lines)
    assert " ".join(lines).split().count("words") == 12


def test_wide_characters_count_twice() -> None:
    table = Table("", [Column("artifact", left=True, name=True), Column("n")], [["模型" * 4, "1"], ["model", "2"]])
    assert table.lines(80)[-1].endswith(" " * (16 - 5 + 2) + "2")
    assert without_middle("模型" * 20, 21).count("…") == 1


def test_control_characters_of_a_result_file_do_not_reach_the_terminal() -> None:
    lines = Table("evil\x1b[2J", [Column("a")], [["x\x1b]0;t\x07\ny"]]).lines(80)
    assert all(line.isprintable() for line in lines)


def test_notes_are_numbered_once() -> None:
    notes = Notes()
    assert [notes.mark(["spread"]), notes.mark(["busy", "spread"]), notes.mark([])] == ["1", "1,2", ""]
    assert notes.lines(80) == ["1: spread", "2: busy"]


def test_a_markdown_cell_stays_one_cell() -> None:
    assert markdown_table(["a", "b"], [["x|y", "1\n2"]], right=[1]) == [
        "| a | b |", "| --- | ---: |", "| x\\|y | 1 2 |",
    ]  # fmt: skip


def test_facts_hang_behind_their_names() -> None:
    assert console.fact_lines([("chip", "one two three"), ("memory", "8 GiB")], 16) == [
        "chip:   one two", "        three", "memory: 8 GiB",
    ]  # fmt: skip


if __name__ == "__main__":
    KEPT.mkdir(parents=True, exist_ok=True)
    for _name, _lines in screens(80).items():
        (KEPT / f"{_name}.txt").write_text("\n".join(_lines) + "\n", encoding="utf-8")
