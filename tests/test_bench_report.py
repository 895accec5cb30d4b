import re
from pathlib import Path

import pytest
import typer
from bench_fakes import FakeSession, made_up_document, open_fakes, plan_of  # noqa: F401
from typer.testing import CliRunner

from mobileloop.commands.report import report as report_command
from mobileloop.errors import MobileloopError
from mobileloop_bench.card import notes as card_notes
from mobileloop_bench.machine import Machine
from mobileloop_bench.report import page, report
from mobileloop_bench.verdict import verdict
from mobileloop_bench.words import bandwidth_sentence, figure, mebibytes, megabytes


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
    assert said[1].startswith("The second loop costs 12% on 2 threads (tiny.safetensors); ")
    assert html.index("<h1>") < html.index("<svg") < html.index("<table")
    assert html.count("<svg") == html.count("<figcaption>") == 4
    assert html.count('role="img"') == 4
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
        "var(--series-1)",
    }


def test_every_result_and_every_doubt_is_in_the_table(fake_artifact: Path) -> None:
    document = made_up_document(plan_of(fake_artifact, loops=[1, 8], repetitions=2))
    html = page([document])
    assert html.count('<th scope="row">') == len(document.results)
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
    assert verdict([document]).startswith("4 loops instead of one cost 36% on 1 thread")
    for row in document.results:
        row.ceiling_gbps = 1e-9
        row.valid = row.phase != "decode"
    said = verdict([document])
    assert "so its weights came from a cache" in said
    assert said.endswith("2 of 8 results are not valid.")


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
    assert [mebibytes(size) for size in (4096, 32 << 20)] == ["4 KiB", "32 MiB"]
    assert bandwidth_sentence([]) == "Read bandwidth: unknown."
