"""The report's charts, one file each: what a run holds is drawn, and what it lacks is named with the way to get it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mobileloop_bench.report.figures.drawing import Figure
from mobileloop_bench.report.figures.ladder import bandwidth_ladder, latency_ladder
from mobileloop_bench.report.figures.latency import latency
from mobileloop_bench.report.figures.loops import decode_against_loops
from mobileloop_bench.report.figures.naming import Names
from mobileloop_bench.report.figures.predicted import predicted
from mobileloop_bench.report.figures.roofline import roofline
from mobileloop_bench.report.figures.stages import stages
from mobileloop_bench.report.figures.timeline import timeline
from mobileloop_bench.report.figures.traffic import traffic
from mobileloop_bench.results.document import Document, decode_rows

LADDER = "mobileloop bandwidth --json machine.json, then mobileloop bench FILE --machine machine.json --json run.json"
BENCH = "mobileloop bench FILE --loops 1,2,4 --json run.json"


@dataclass(frozen=True)
class Missing:
    """A chart that was left out: why, and what to run to get it."""

    title: str
    why: str
    command: str


def figures(documents: Sequence[Document]) -> tuple[list[Figure], list[Missing]]:
    """Every chart that these runs allow, in the order of the page, and those that they do not."""
    rows = decode_rows(documents)
    names = Names(rows)
    ladders = [document.ladder for document in documents if document.ladder]
    # The caches of two machines are no roofs for each other's points.
    roofs = ladders[0] if len(documents) == 1 and ladders else None
    runs = [""] if len(documents) == 1 else [f"-run-{number}" for number in range(1, len(documents) + 1)]
    pairs = list(zip(documents, runs, strict=True))
    wanted: list[tuple[list[Figure | None], Missing]] = [
        (
            [roofline(documents, names, roofs)],
            Missing("Roofline", "no decode row has both its bytes and its time", BENCH),
        ),
        (
            [bandwidth_ladder(document, decode_rows([document]), run) for document, run in pairs],
            Missing("Bandwidth ladder", "the result holds no bandwidth ladder", LADDER),
        ),
        (
            [latency_ladder(document, run) for document, run in pairs],
            Missing("Latency of memory", "the result holds no pointer chase", LADDER),
        ),
        (
            [decode_against_loops(rows, names)],
            Missing("Decode time against loops", "no token was decoded", BENCH),
        ),
        ([stages(rows, names)], Missing("Where a token's time goes", "no runtime told its stages", BENCH)),
        ([traffic(rows, names)], Missing("Bytes of one decoded token", "no row tells its bytes", BENCH)),
        ([latency(rows, names)], Missing("Latency of single tokens", "no samples were kept", BENCH)),
        (
            [timeline(document, run) for document, run in pairs],
            Missing(
                "The machine over time", "the machine told neither temperature nor frequency, or was not asked", BENCH
            ),
        ),
        (
            [predicted(rows, names)],
            Missing("Prediction against measurement", "no row carries a prediction, which needs the ladder", LADDER),
        ),
    ]
    drawn = [one for made, _ in wanted for one in made if one is not None]
    return drawn, [missing for made, missing in wanted if not any(made)]
