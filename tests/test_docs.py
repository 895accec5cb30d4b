"""The documents: nothing is left to be filled in, and tables are tables."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PLACEHOLDER = re.compile(r"@[A-Z][A-Z_]*@|\{\{[A-Z_ ]+\}\}|\b(?:TODO|FIXME|TBD)\b")
CELL_END = re.compile(r"(?<!\\)\|")


def prose(path):
    """Numbered lines outside of fenced code."""
    inside = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside:
            yield number, line


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_nothing_is_left_to_fill_in(path):
    assert [(number, line) for number, line in prose(path) if PLACEHOLDER.search(re.sub(r"`[^`]*`", "", line))] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_rows_of_a_table_have_its_columns(path):
    columns, wrong = 0, []
    for number, line in prose(path):
        cells = len(CELL_END.findall(line)) if line.startswith("|") else 0
        if cells and columns and cells != columns:
            wrong.append((number, line))
        columns = columns if cells and columns else cells
    assert wrong == []


def test_quantization_has_both_schedules():
    text = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.count("|") == 9]
    of = {
        schedule: [name for name, at in rows if at.strip() == schedule] for schedule in ("plain", "range:12-17:2:0.5")
    }
    assert len(of["plain"]) == 11
    assert of["plain"] == of["range:12-17:2:0.5"]
