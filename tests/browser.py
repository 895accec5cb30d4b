"""A real Chromium for the tests of the report and for its picture; driven by playwright, which brings none here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    """MOBILELOOP_CHROMIUM, or the first browser on the PATH."""
    told = os.environ.get("MOBILELOOP_CHROMIUM")
    return told or next((path for name in NAMES if (path := shutil.which(name))), None)


def why_not() -> str | None:
    """Why no page can be opened, or None."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed; pip install '.[dev]' brings it"
    return None if chromium() else f"no Chromium was found: neither MOBILELOOP_CHROMIUM nor {', '.join(NAMES)}"


@contextmanager
def browser() -> Iterator[Any]:
    """A headless browser; its sandbox is off for root alone, who has no other way."""
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium(), args=arguments)
        try:
            yield started
        finally:
            started.close()


@contextmanager
def opened(started: Any, path: Path, width: int, scheme: str = "light", scale: float = 1) -> Iterator[Any]:
    """A page from disk, with the messages of its console and the addresses it asked for in `said` and `asked`."""
    context = started.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, device_scale_factor=scale, offline=True
    )
    page = context.new_page()
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(path.resolve().as_uri())
    try:
        yield page
    finally:
        context.close()
