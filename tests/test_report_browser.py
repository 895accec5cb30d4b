"""The report in a real browser: everything drawn, nothing over the edge or over each other, readable, accessible."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import browser, opened, why_not
from report_fakes import bare_document, full_document

from mobileloop_bench.report.figures import figures
from mobileloop_bench.report.page import page

REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")

SCREENSHOTS = Path(__file__).resolve().parents[1] / "build" / "screenshots"
PHONE, TABLET, DESK = 360, 800, 1200
LEAST_FONT_PX = 12
DOCUMENTS = {"full": [full_document()], "bare": [bare_document()], "runs": [full_document(), full_document()]}

# Every figure's marks, as vega names their groups.
MARKS = {
    "roofline": ("symbol", "line", "text"),
    "ladder": ("symbol", "line", "rule", "text"),
    "latency-ladder": ("symbol", "line"),
    "loops": ("symbol", "line", "rule", "text"),
    "stages": ("rect", "text"),
    "bytes": ("rect", "text"),
    "latency": ("area", "rule", "symbol", "text"),
    "timeline": ("line", "text"),
    "prediction": ("symbol", "rule", "text"),
}

# [figure, panels on show, marks by kind, smallest text in px] of every figure.
DRAWN = """() => [...document.querySelectorAll('.figure')].map(figure => {
  const shown = [...figure.querySelectorAll('.panel svg')].filter(svg => svg.getBoundingClientRect().width > 0)
  const marks = {}
  let smallest = Infinity
  for (const svg of shown) {
    const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width
    for (const text of svg.querySelectorAll('text'))
      smallest = Math.min(smallest, parseFloat(getComputedStyle(text).fontSize) * scale)
    for (const kind of ['symbol', 'line', 'rule', 'rect', 'area', 'text'])
      for (const mark of svg.querySelectorAll(`g.mark-${kind}.role-mark > *`)) {
        const box = mark.getBoundingClientRect()
        if (box.width || box.height) marks[kind] = (marks[kind] || 0) + 1
      }
  }
  return {slug: figure.querySelector('h2').id, panels: shown.length, marks, smallest}
})"""

# Labels that lie over each other or outside the window; turned ones run along their line and are left out.
COLLISIONS = """() => [...document.querySelectorAll('.panel svg')].flatMap(svg => {
  const labels = [...svg.querySelectorAll('text')]
    .filter(text => text.textContent && !/rotate\\((?!0\\b)/.test(text.getAttribute('transform') || ''))
    .map(text => ({said: text.textContent, box: text.getBoundingClientRect()}))
    .filter(label => label.box.width > 0)
  const found = labels.filter(l => l.box.left < -1 || l.box.right > innerWidth + 1).map(l => `outside: ${l.said}`)
  labels.forEach((one, i) => labels.slice(i + 1).forEach(other => {
    const wide = Math.min(one.box.right, other.box.right) - Math.max(one.box.left, other.box.left)
    const high = Math.min(one.box.bottom, other.box.bottom) - Math.max(one.box.top, other.box.top)
    if (wide > 2 && high > 3) found.push(`${one.said} over ${other.said}`)
  }))
  return found
})"""


@pytest.fixture(scope="module")
def started() -> Iterator[Any]:
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("report")
    for name, documents in DOCUMENTS.items():
        (folder / f"{name}.html").write_text(page(documents), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in DOCUMENTS}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_console_is_silent_and_nothing_is_asked_for(started: Any, pages: dict[str, Path], name: str) -> None:
    with opened(started, pages[name], DESK) as shown:
        assert shown.said == []
        assert shown.asked == [pages[name].as_uri()]
        assert shown.locator("h1").bounding_box()["y"] < 200


@pytest.mark.parametrize("width", [PHONE, TABLET, DESK])
def test_every_chart_is_drawn_and_readable(started: Any, pages: dict[str, Path], width: int) -> None:
    expected = {figure.slug: len(figure.panels) for figure in figures(DOCUMENTS["full"])[0]}
    assert set(expected) == set(MARKS)
    with opened(started, pages["full"], width) as shown:
        drawn = {figure["slug"]: figure for figure in shown.evaluate(DRAWN)}
    assert {slug: figure["panels"] for slug, figure in drawn.items()} == expected
    for slug, kinds in MARKS.items():
        assert all(drawn[slug]["marks"].get(kind) for kind in kinds), (slug, drawn[slug]["marks"])
        assert drawn[slug]["smallest"] >= LEAST_FONT_PX, (slug, drawn[slug]["smallest"])
    decode = sum(row.phase == "decode" for row in DOCUMENTS["full"][0].results)
    assert drawn["latency"]["marks"]["area"] == decode
    assert drawn["bytes"]["marks"]["rect"] > 2 * 4


@pytest.mark.parametrize(
    ("name", "width"),
    [("full", 320), ("full", PHONE), ("full", TABLET), ("full", DESK), ("bare", TABLET), ("runs", PHONE)],
)
def test_nothing_runs_over_the_edge_or_over_another_label(
    started: Any, pages: dict[str, Path], name: str, width: int
) -> None:
    with opened(started, pages[name], width) as shown:
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.evaluate(COLLISIONS) == []


@pytest.mark.parametrize(("name", "scheme"), [("full", "light"), ("full", "dark"), ("bare", "light")])
def test_it_is_accessible(started: Any, pages: dict[str, Path], name: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with opened(started, pages[name], PHONE, scheme) as shown:
        # axe is put in by the browser, past the page's own policy.
        found = axe.Axe().run(shown)
        failed = {one["id"]: [node["target"] for node in one["nodes"]][:5] for one in found.response["violations"]}
        assert failed == {}


def test_the_keyboard_opens_a_table(started: Any, pages: dict[str, Path]) -> None:
    with opened(started, pages["full"], DESK) as shown:
        shown.keyboard.press("Tab")
        assert shown.evaluate("document.activeElement.tagName") == "SUMMARY"
        shown.keyboard.press("Enter")
        assert shown.evaluate("document.activeElement.parentElement.open")
        shown.keyboard.press("Tab")
        assert shown.evaluate("document.activeElement.getAttribute('role')") == "region"
        assert shown.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_it_prints_with_its_tables(started: Any, pages: dict[str, Path]) -> None:
    with opened(started, pages["full"], DESK, "dark") as shown:
        shown.emulate_media(media="print", color_scheme="dark")
        assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert shown.locator("table.results").last.evaluate("table => table.getBoundingClientRect().height") > 20
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        shown.pdf(path=str(SCREENSHOTS / "report.pdf"), prefer_css_page_size=True)
    assert (SCREENSHOTS / "report.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("file", "width", "scheme"), [("light", DESK, "light"), ("dark", DESK, "dark"), ("phone", PHONE, "light")]
)
def test_screenshots_are_kept(started: Any, pages: dict[str, Path], file: str, width: int, scheme: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with opened(started, pages["full"], width, scheme) as shown:
        shown.screenshot(path=str(SCREENSHOTS / f"report-{file}.png"), full_page=True)
    assert (SCREENSHOTS / f"report-{file}.png").stat().st_size > 50_000
