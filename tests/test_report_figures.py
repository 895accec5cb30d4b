"""Names, label places, colours and what each chart says of a made-up run."""

import itertools
import random
import re

import pytest
from report_fakes import bare_document, full_document

from mobileloop_bench.machine.ladder import Ladder
from mobileloop_bench.report.figures import figures
from mobileloop_bench.report.figures.drawing import NARROW, apart, decades, elided, label_boxes, text_width
from mobileloop_bench.report.figures.naming import Names
from mobileloop_bench.report.figures.palette import DARK, LIGHT
from mobileloop_bench.report.page import page
from mobileloop_bench.results.document import decode_rows


def by_slug(document):
    return {figure.slug: figure for figure in figures([document])[0]}


def test_a_whole_run_draws_everything_and_a_bare_one_names_what_it_lacks():
    drawn, missing = figures([full_document()])
    assert [figure.slug for figure in drawn] == [
        "roofline",
        "ladder",
        "latency-ladder",
        "loops",
        "stages",
        "bytes",
        "latency",
        "timeline",
        "prediction",
    ]
    assert missing == []
    drawn, missing = figures([bare_document()])
    assert [figure.slug for figure in drawn] == ["loops", "latency"]
    assert len(missing) == 7
    assert all(one.why and one.command.startswith("mobileloop ") for one in missing)


def test_every_mark_is_in_the_table_of_its_figure():
    document = full_document()
    rows = [row for row in document.results if row.phase == "decode"]
    found = by_slug(document)
    assert len(found["latency"].table.rows) == len(found["loops"].table.rows) == len(rows)
    assert len(found["roofline"].table.rows) == sum(row.peer is None for row in rows)
    assert len(found["ladder"].table.rows) == len(document.ladder.steps)
    for figure in found.values():
        assert {len(row) for row in figure.table.rows} == {len(figure.table.headers)}
        assert all(panel.described for panel in figure.panels)


def test_the_unshared_depth_is_measured_where_it_can_be():
    measured, computed = by_slug(full_document()), by_slug(full_document(unshared=None))
    assert "at the depth of loops 2 6." in measured["loops"].panels[1].described
    assert "ms measured" in measured["loops"].panels[1].described
    assert "ms measured" not in computed["loops"].panels[1].described
    assert "without sharing, that depth would take 5.75 times as long" in computed["loops"].finding


def test_the_roofline_blames_memory_only_near_the_roof():
    document = full_document(loops=(1,), threads=(1,), unshared=None, peers=False)
    (row, *others) = decode_rows([document])
    document.results = [row]
    row.ceiling_gbps = row.read_gbps / 0.9
    assert by_slug(document)["roofline"].finding.endswith("stands at 90% of the roof, so memory sets the pace.")
    row.ceiling_gbps = row.read_gbps / 0.54
    document.bandwidth = []
    assert "54% of the roof, so something else than memory sets the pace" in by_slug(document)["roofline"].finding
    row.valid = False
    assert "in doubt: the times are not valid results" in by_slug(document)["roofline"].finding
    row.ceiling_gbps, document.ladder = None, None
    bare = by_slug(document)["roofline"]
    assert bare.finding.endswith("GB/s, which is not a valid result.")
    assert "rising line" not in bare.caption
    assert "Level lines" not in bare.caption
    document.results = [row, *others]
    assert "comes closest to the roof" in by_slug(document)["roofline"].finding
    assert names_of(document, others) in by_slug(document)["roofline"].finding


def names_of(document, rows):
    best = max(rows, key=lambda row: (row.valid, row.ceiling_share))
    return Names(decode_rows([document])).full_name(best)


def test_one_point_is_not_explained_as_a_line():
    document = full_document(loops=(1,), threads=(1,), unshared=None, peers=False)
    caption = by_slug(document)["loops"].caption
    assert "no line to compare with" in caption
    assert "dashed" not in caption
    assert "Hollow" not in caption
    whole = by_slug(full_document())["loops"].caption
    assert "dashed limit" in whole
    assert "Hollow" in whole


def test_a_published_ladder_has_steps_alone():
    document = full_document()
    document.ladder = Ladder(steps=document.ladder.steps)
    figure = by_slug(document)["ladder"]
    assert 'class="mark-line' in figure.svg(figure.panels[0], NARROW)


def test_the_ladder_names_the_level_that_holds_the_block():
    assert by_slug(full_document())["ladder"].finding == (
        "On 2 threads, memory delivers 26.0 GB/s; the block of 1.91 MiB fits L2, which delivers 140 GB/s."
    )


def test_names_are_short_and_tell_all_apart():
    names = Names(decode_rows([full_document()]))
    labels = [mark.label for mark in names.marks(decode_rows([full_document()]))]
    assert labels == ["engine int4", "ExecuTorch", "ONNX", "engine 2x-unshared", "llama.cpp (peer)"]
    rows = decode_rows([full_document(loops=(2,), threads=(1,), unshared=None, peers=False)])
    twin = rows[0].model_copy(update={"stream": "prefetch"})
    names = Names([*rows, twin])
    assert names.mark(rows[0]).label == "engine, stream core:1"
    assert names.mark(twin).label == "engine, stream prefetch"
    deep = rows[0].model_copy(update={"depth": 512, "sequences": 2})
    assert Names([*rows, deep]).title(deep) == "1 thread, 512 tokens deep, 2 sequences"


def test_series_of_hostile_names_stay_apart():
    rows = decode_rows([full_document(loops=(1,), threads=(1,), unshared=None, peers=False)])
    for row, artifact in zip(rows, ("", "a" * 300, "\n"), strict=True):
        row.artifact, row.runtime = artifact, "engine"
    labels = [mark.label for mark in Names(rows).marks(rows)]
    assert len(set(labels)) == 3


def test_labels_keep_apart():
    places = apart([10, 11, 12, 200], 0, 200, 18)
    assert all(b - a >= 18 for a, b in itertools.pairwise(sorted(places)))
    assert max(apart([199, 200, 200], 0, 200, 18)) <= 200
    boxes = label_boxes([(50, 50, "one"), (52, 50, "two"), (54, 50, "three")], 200, 100)
    assert boxes[0] is not None
    assert len({box for box in boxes if box}) == sum(box is not None for box in boxes)
    assert elided("a" * 50, text_width("a" * 20)) == f"{'a' * 9}…{'a' * 10}"


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_every_colour_has_the_contrast_of_text(colours):
    """WCAG AA asks 4.5 of text; series colours are used for labels too."""
    for name, colour in colours.items():
        if name not in ("ground", "panel", "line"):
            assert contrast(colour, colours["ground"]) >= 4.5, name
    for name in ("ink", "quiet", "doubt"):
        assert contrast(colours[name], colours["panel"]) >= 4.5, name


# Machado, Oliveira and Fernandes 2009, full severity, for linear RGB.
BLINDNESS = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def lab(colour, matrix):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    r, g, b = (min(max(sum(m * v for m, v in zip(row, linear, strict=True)), 0), 1) for row in matrix)
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("colours", [LIGHT, DARK])
@pytest.mark.parametrize("blindness", BLINDNESS)
def test_the_first_four_series_are_told_apart_by_the_colour_blind(colours, blindness):
    """A distance of 10 in CIELAB is seen at a glance; 2.3 is just noticed."""
    seen = [lab(colours[f"series-{number}"], BLINDNESS[blindness]) for number in range(1, 5)]
    for one, other in itertools.combinations(seen, 2):
        assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 >= 10


def test_a_drawing_takes_the_colours_of_its_page():
    found = by_slug(full_document(loops=(1, 2), threads=(1,)))
    for figure in found.values():
        svg = figure.svg(figure.panels[0], NARROW)
        assert not re.search(r'(?:fill|stroke)="(#|rgb)', svg), figure.slug
        assert svg.startswith("<svg")


ODD_FIELDS = (
    "median_ms",
    "tokens_per_s",
    "unique_bytes",
    "executed_bytes",
    "kv_bytes",
    "stage_bytes",
    "read_gbps",
    "executed_gbps",
    "ceiling_gbps",
    "ceiling_tokens_per_s",
    "loop_tax",
    "p10_ms",
    "p90_ms",
)
ODD = (None, 0, -1.0, 1e-12, 1e300)


@pytest.mark.parametrize("seed", range(5))
def test_odd_figures_of_a_file_never_stop_the_page(seed):
    """A result file is untrusted: whatever its schema lets through is drawn, or left out."""
    draw = random.Random(seed)
    document = full_document(loops=(1, 2), threads=(1,))
    for row in document.results:
        for name in ODD_FIELDS:
            if draw.random() < 0.25:
                odd = draw.choice(ODD)
                setattr(row, name, abs(int(odd)) if odd is not None and name.endswith("_bytes") else odd)
        if draw.random() < 0.2:
            row.samples_ms = draw.choice([[], [0.0], [1.0], [-1.0, 5.0], [3.0] * 40])
        if row.stages and draw.random() < 0.3:
            row.stages[0].loop_ms = draw.choice([[], [0.0, 0.0], [-1.0, 1.0]])
        if row.prediction and draw.random() < 0.3:
            row.prediction.ms = draw.choice([0.0, -4.0, 1e200])
    if seed % 2:
        document.ladder.latencies = document.ladder.latencies[:1]
        document.ladder.rungs = document.ladder.rungs[:1]
        document.series = document.series[:2]
        document.series[0].t_s = document.series[1].t_s
    html = page([type(document).model_validate_json(document.model_dump_json(by_alias=True))])
    assert "<h1>" in html
    assert not re.search(r"\b(NaN|Infinity)\b", html)


def test_marks_of_an_axis_end_where_numbers_do() -> None:
    assert decades(2, 60) == [2, 5, 10, 20, 50]
    assert decades(1e307, 1.7e308, (1,)) == [1e307, 1e308]
