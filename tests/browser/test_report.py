"""The report in a real headless Chromium, offline."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from analysis.load import Results
from analysis.report import write
from tests.synthetic_store import add_run

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (apt-get install chromium)"),
]
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-sync", "--disable-background-networking"]
BOUND_S = 30
PLOTS = 8


def until(page: Page, condition: str) -> None:
    """Waits for a JavaScript condition. Asked from outside: the page's own policy forbids eval."""
    deadline = time.monotonic() + BOUND_S
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    for model in ("mnist_cnn", "vgg16_cifar"):
        for step in (0.1, 0.11, 0.12):
            add_run(root / "data", [step, step * 1.1], model=model)
            add_run(root / "data", [step, step], model=model, strategy="mwms", num_processes=2, num_devices=2)
    add_run(root / "data", status="failed", error="<b>boom</b>", label="</td><script>alert(1)</script>")
    return write(Results(root / "data"), root / "out", "a test")[-1]


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.problems = []  # type: ignore[attr-defined]
    page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))  # type: ignore[attr-defined]
    page.on("pageerror", lambda error: page.problems.append(str(error)))  # type: ignore[attr-defined]
    page.on("dialog", lambda dialog: page.problems.append(f"dialog {dialog.message}"))  # type: ignore[attr-defined]
    page.on("request", lambda request: request.url.startswith("http") and page.problems.append(request.url))  # type: ignore[attr-defined]
    page.goto(report.as_uri())
    until(page, f"document.querySelectorAll('.plot .main-svg').length >= {PLOTS}")
    yield page
    assert page.problems == []  # type: ignore[attr-defined]
    context.close()


def test_it_loads_offline_without_an_error_and_draws_every_plot(page: Page) -> None:
    assert page.locator("#results tbody tr").count() == 4
    assert page.locator(".plot").count() == PLOTS
    assert page.locator(".plot .scatterlayer .trace").count() > 0
    assert "boom" in page.inner_text("body")
    assert "<b>boom</b>" in page.inner_text("body")


def test_a_plot_answers_to_the_mouse(page: Page) -> None:
    point = page.locator(".plot").first.locator(".scatterlayer .trace .points path").last
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector(".plot .hoverlayer .hovertext")


TICK = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
PAGE = "getComputedStyle(document.body).backgroundColor"


def test_dark_mode_changes_page_and_plots(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    until(page, f"{PAGE} == 'rgb(255, 255, 255)' && {TICK} == 'rgb(17, 24, 39)'")
    page.emulate_media(color_scheme="dark")
    until(page, f"{PAGE} == 'rgb(17, 24, 39)' && {TICK} == 'rgb(229, 231, 235)'")


def test_a_phone_shows_it_without_scrolling_sideways(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    until(page, "document.documentElement.scrollWidth <= 390")
