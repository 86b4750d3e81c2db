"""A real headless Chromium, what goes wrong in it, and what it saves."""

from __future__ import annotations

import csv
import io
import shutil
import time
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page

from analysis.report import main

CHROMIUM = shutil.which("chromium")
NEEDS_CHROMIUM = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (apt-get install chromium)"),
]
BOUND_S = 30
HEIGHT = 900
DRAWN = "document.querySelectorAll('.plot .main-svg:first-child').length"


def until(page: Page, condition: str) -> None:
    """Waits for a JavaScript condition. Asked from outside: the page's own policy forbids eval."""
    deadline = time.monotonic() + BOUND_S
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


def write(root: Path) -> Path:
    assert main([f"--results-dir={root}", f"--output={root.parent / 'out'}"]) == 0
    return root.parent / "out" / "report.html"


class Watched:
    """A page, and everything that went wrong on it."""

    def __init__(self, page: Page) -> None:
        self.problems: list[str] = []
        page.on("console", lambda said: self.problems.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", lambda dialog: self.problems.append(f"dialog {dialog.message}"))
        page.on("request", lambda asked: self.problems.append(asked.url) if asked.url.startswith("http") else None)


def downloaded(page: Page, button: Locator) -> list[list[str]]:
    with page.expect_download() as waiting:
        button.click()
    text = Path(waiting.value.path()).read_bytes().decode()
    assert waiting.value.suggested_filename.endswith(".csv")
    assert text.endswith("\r\n")
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))
