"""The picture of the README: `make report-picture`, or `python tests/report_picture.py RESULT.json PICTURE.png`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from browser import browser, opened, why_not

from mobileloop_bench.report.page import report

WIDTH, HEIGHT, SCALE = 1120, 1560, 1.25


def main(result: Path, picture: Path) -> None:
    """The top of the page, light."""
    if reason := why_not():
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory() as folder:
        html = Path(folder) / "report.html"
        report([result], html)
        with browser() as started, opened(started, html, WIDTH, scale=SCALE) as page:
            page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
            page.screenshot(path=str(picture))
    print(f"Wrote {picture}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
