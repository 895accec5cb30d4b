import re
from pathlib import Path

import pytest
import typer
from bench_fakes import FakeSession, made_up_document, open_fakes, plan_of  # noqa: F401
from report_fakes import bare_document, full_document
from typer.testing import CliRunner

from mobileloop.errors import MobileloopError
from mobileloop_bench.bandwidth.ceiling import bandwidth_sentence
from mobileloop_bench.commands.report import report as report_command
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.measure.card import notes as card_notes
from mobileloop_bench.report.figures.palette import COLOURS
from mobileloop_bench.report.markdown import markdown
from mobileloop_bench.report.page import notes, page, report
from mobileloop_bench.report.verdict import verdict
from mobileloop_bench.writing.units import figure, mebibytes, megabytes


def check_self_contained(html: str) -> None:
    assert not re.search(r"""(src|href|action|data)\s*=\s*["']?\s*(https?:)?//""", html)
    assert not re.search(r"url\((?!#)|@import|<script|<link|<iframe|<img", html)
    outside = set(re.findall(r"https?://[^\s\"'<)]+", html))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_the_page_is_self_contained_and_says_its_verdict_first(fake_artifact: Path, tmp_path: Path) -> None:
    made_up_document(plan_of(fake_artifact)).write(tmp_path / "run.json")
    report([tmp_path / "run.json"], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    check_self_contained(html)
    said = re.search(r"<body>.*?<h1>(.*?)</h1>", html, re.S)
    assert said
    assert said[1].startswith("The second loop costs 12% on 2 threads, 5.61 ms (5.61 to 5.61) per token; ")
    assert html.index("<h1>") < html.index('class="keys"') < html.index('class="trust') < html.index("<svg")
    assert html.count('<section class="figure"') == 4  # roofline, loops, bytes, latency; two panels each but for bytes
    assert html.count('role="img"') == 2 + 2 + 2 + 2
    assert "Random weights: tiny.safetensors" in html
    assert "mobileloop bench tiny.safetensors" in html
    for needed in ("prefers-color-scheme: dark", "@media print", 'name="viewport"', 'lang="en"'):
        assert needed in html


def test_the_path_that_computed_is_told(fake_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSession, "details", lambda self: {"path": "engine kernels"})
    plan = plan_of(fake_artifact)
    assert "tiny.safetensors runs on engine kernels." in card_notes(plan.artifacts, Machine())
    assert page([made_up_document(plan)]).count("tiny.safetensors ran on engine kernels.") == 1


def test_ids_are_unique_and_colours_follow_the_page(fake_artifact: Path) -> None:
    html = page([made_up_document(plan_of(fake_artifact))])
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, re.S))
    assert set(re.findall(r'(?:fill|stroke)="([^"]+)"', drawn)) <= {
        "none",
        "transparent",
        "currentColor",
        "var(--ground)",
        *COLOURS,
    }


def test_every_result_and_every_doubt_is_in_the_table(fake_artifact: Path) -> None:
    document = made_up_document(plan_of(fake_artifact, loops=[1, 8], repetitions=2))
    html = page([document])
    results = html[html.index("Every result") :]
    byte_rows = len({(row.artifact, row.loops) for row in document.results if row.phase == "decode"})
    assert results.count('<th scope="row">') == len(document.results) + byte_rows
    assert "too few samples: of 2 rounds" in html
    assert "loops 8 is outside 1-4" in html


def test_unknown_figures_are_said_to_be_unknown(fake_artifact: Path) -> None:
    document = made_up_document(plan_of(fake_artifact, loops=[2])).model_copy(update={"bandwidth": []})
    for row in document.results:
        row.ceiling_gbps = row.ceiling_tokens_per_s = None
    html = page([document])
    assert "the share of the read bandwidth is unknown" in html
    assert "tiny.safetensors decodes" in html
    assert not re.search(r"\b(None|nan|inf)\b", html)


def test_an_untrusted_name_cannot_become_markup(fake_artifact: Path) -> None:
    document = made_up_document(plan_of(fake_artifact), Machine(cpu="<script>alert(1)</script>"))
    for row in document.results:
        row.artifact = '"><img src=//example.org>'
    html = page([document])
    assert "<script" not in html
    assert "<img" not in html


def test_runs_are_told_apart(fake_artifact: Path) -> None:
    document = made_up_document(plan_of(fake_artifact))
    html = page([document, document])
    assert "tiny.safetensors (run 2)" in html
    assert "Run 2: Machine" in html
    check_self_contained(html)


def test_a_page_of_nothing_says_so(fake_artifact: Path) -> None:
    document = made_up_document(plan_of(fake_artifact)).model_copy(update={"results": []})
    assert "<h1>Nothing was measured.</h1>" in page([document])


def test_the_verdict_in_its_variants(fake_artifact: Path) -> None:
    document = made_up_document(plan_of(fake_artifact, loops=[1, 4], threads=[1]))
    assert verdict([document]).sentence.startswith("4 loops instead of one cost 36% on 1 thread")
    for row in document.results:
        row.ceiling_gbps = 1e-9
    document.bandwidth = []
    assert "so its weights came from a cache" in verdict([document]).sentence
    for row in document.results:
        row.valid = row.phase != "decode"
    said = verdict([document])
    assert "came from a cache" not in said.sentence
    assert said.sentence.startswith("4 loops instead of one cost 36% on 1 thread, 13.6 ms (13.6 to 13.6) per token")
    assert "can be told" not in said.sentence
    assert said.sentence.endswith("; in doubt: no reason given.")
    assert (said.trusted, said.trust) == (False, "2 of 8 results are not valid: no reason given.")


def test_a_verdict_without_loops_says_that_it_is_not_valid(fake_artifact: Path) -> None:
    document = made_up_document(plan_of(fake_artifact, loops=[1], threads=[1]))
    assert "in doubt" not in verdict([document]).sentence
    for row in document.results:
        row.valid, row.reasons = False, ["core shared: arithmetic took 1.31 times its shortest in this run"]
    said = verdict([document]).sentence
    assert "tokens/s on 1 thread, 10.0 ms (10.0 to 10.0) per token; " in said
    assert said.endswith("; in doubt: core shared.")


def test_a_busy_machine_takes_no_median_away() -> None:
    document = full_document()
    for row in document.results:
        row.valid, row.reasons = False, ["not alone: other programs used 1.20 cores", "interval too wide: ±8%"]
    said = verdict([document])
    assert said.sentence == (
        "The second loop costs 20% on 2 threads, 4.54 ms (4.50 to 4.60) per token; "
        "96% of the measured read bandwidth is used; the block (2.0 MB) fits L2, as measured; "
        "in doubt: not alone, interval too wide."
    )
    assert said.figures[0].note == "with 1 loop ±1.1%; 220 with 2"
    assert said.trusted is False
    assert "can be told" not in page([document]).partition("</header>")[0]


def test_the_command(fake_artifact: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(report_command)
    made_up_document(plan_of(fake_artifact)).write(tmp_path / "run.json")
    done = CliRunner().invoke(app, [str(tmp_path / "run.json"), "--html", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert "Examples:" in CliRunner().invoke(app, ["--help"]).output


def test_a_bad_input_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(MobileloopError, match="is not JSON"):
        report([tmp_path / "bad.json"], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_words() -> None:
    assert [figure(value) for value in (None, 0.0, 0.01234, 5.0, 71.04, 1234.5)] == [
        "unknown",
        "0.00",
        "0.0123",
        "5.00",
        "71.0",
        "1,234",
    ]
    assert [megabytes(size) for size in (None, 512, 1_500_000, 123_456_789)] == [
        "unknown",
        "0.5 kB",
        "1.5 MB",
        "123 MB",
    ]
    assert [mebibytes(size) for size in (4096, 32 << 20, 24 << 30)] == ["4 KiB", "32 MiB", "24 GiB"]
    assert bandwidth_sentence([]) == "Read bandwidth: unknown."


def test_the_first_screen_of_a_whole_run() -> None:
    said = verdict([full_document()])
    assert said.sentence == (
        "The second loop costs 20% on 2 threads, 4.54 ms (4.50 to 4.60) per token; "
        "96% of the measured read bandwidth is used; the block is resident in L2: its repeats are read at 77.1 GB/s."
    )
    assert [key.name for key in said.figures] == ["decode", "loop tax", "read bandwidth used", "anonymous memory"]
    assert [f"{key.value} {key.unit}" for key in said.figures] == ["266 tokens/s", "1.20 ×", "96 %", "15.5 MB"]
    assert said.trusted is None
    assert said.trust.startswith("The figures above are valid; 2 of ")
    assert said.trust.endswith(" results are not valid: spread (2).")


def test_what_is_missing_is_named_with_its_command() -> None:
    html = page([bare_document()])
    assert "Bandwidth ladder</strong>: the result holds no bandwidth ladder" in html
    assert "mobileloop bandwidth --json machine.json" in html
    assert not re.search(r"\b(None|nan|inf)\b", html)
    assert html.count('<section class="figure"') == 2  # loops and latency need the times alone


def test_every_field_of_a_result_has_its_place() -> None:
    html = page([full_document()])
    for told in ("cache-misses per token", "J/token", "Predicted ms", "llama.cpp (peer) b7000", "core:1", "p99 ms"):
        assert told in html
    assert "Not drawn" not in html
    assert html.count('scope="col"') == html.count("<th ") - html.count('scope="row"')


def test_the_markdown_summary() -> None:
    document = full_document()
    document.results[3].artifact = "a|b`c` <script>\nsecond"
    text = markdown([document], notes([document]))
    lines = text.splitlines()
    assert lines[0].startswith("**The second loop costs ")
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 2 + sum(row.phase == "decode" for row in document.results)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {10}
    assert any("no: spread: p90 is 1.62 times p10" in row for row in rows)
    assert "Made-up Cortex" in text
    assert f"```\n{document.command}\n```" in text
    assert not re.search(r"(?<!\\)<script", text)


@pytest.mark.parametrize("chart_format", ["svg", "png"])
def test_charts_as_files(tmp_path: Path, chart_format: str) -> None:
    full_document(loops=(1, 2), threads=(2,)).write(tmp_path / "run.json")
    app = typer.Typer()
    app.command()(report_command)
    arguments = [
        str(tmp_path / "run.json"),
        "--charts",
        str(tmp_path / "new" / "charts"),
        "--chart-format",
        chart_format,
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    files = sorted((tmp_path / "new" / "charts").iterdir())
    assert {path.suffix for path in files} == {f".{chart_format}"}
    assert {"loops", "roofline", "ladder", "bytes", "timeline-2"} <= {path.stem for path in files}
    content = (tmp_path / "new" / "charts" / f"loops.{chart_format}").read_bytes()
    if chart_format == "png":
        assert content.startswith(b"\x89PNG")
    else:
        assert b"Decode time against loops" in content
        assert b"var(--" not in content
        assert b"currentColor" not in content
    assert not Path("report.html").exists()


def test_one_file_is_not_written_twice(tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    with pytest.raises(MobileloopError, match=r"both to be .*name two files"):
        report([tmp_path / "in.json"], out, markdown_path=tmp_path / "." / "out.html")
    assert not out.exists()
