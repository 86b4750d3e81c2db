"""The report in a real headless Chromium, offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page

from tests.browser.chromium import DRAWN, HEIGHT, NEEDS_CHROMIUM, Watched, downloaded, until, write
from tests.synthetic_store import add_run

pytestmark = NEEDS_CHROMIUM
PLOTS_A_WORKLOAD = 7
PLOTS = 2 * PLOTS_A_WORKLOAD


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report") / "data"
    known = {"compute_shares": [0.7, 0.7 / 1.1], "hostnames": ["a", "b"], "samples": 20}
    for model, factor in (("mnist_cnn", 1), ("vgg16_cifar", 10)):
        for step in (0.1, 0.11, 0.12):
            times = [factor * step, factor * step * 1.1]
            add_run(root, times, model=model, **known)
            add_run(root, times, model=model, strategy="mwms", num_processes=2, num_devices=2, **known)
    add_run(root, status="failed", error="boom", label="-2+3")
    return write(root)


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": HEIGHT})
    page = context.new_page()
    watched = Watched(page)
    page.goto(report.as_uri())
    until(page, f"document.querySelectorAll('.plot').length == {PLOTS}")
    yield page
    assert watched.problems == []
    context.close()


def scroll_down(page: Page) -> None:
    for place in range(0, page.evaluate("document.documentElement.scrollHeight"), HEIGHT // 2):
        page.evaluate(f"scrollTo(0, {place})")
        page.wait_for_timeout(30)


def plot(page: Page, title: str) -> Locator:
    """A figure of the first workload."""
    return page.locator("figure", has=page.get_by_role("heading", name=title, exact=True)).first


def column(page: Page, number: int) -> list[str]:
    cells = page.locator(f"#results tbody tr:not([hidden]) td:nth-child({number})")
    return cells.all_inner_texts()


def test_plots_are_drawn_when_they_are_scrolled_to(page: Page) -> None:
    assert page.evaluate(DRAWN) < PLOTS
    scroll_down(page)
    until(page, f"{DRAWN} == {PLOTS}")
    for kind in ("scatterlayer", "barlayer", "boxlayer", "heatmaplayer"):
        assert page.locator(f".plot .{kind} > *").count() > 0
    assert "boom" in page.inner_text("body")


def test_a_plot_answers_to_the_mouse(page: Page) -> None:
    throughput = plot(page, "Throughput")
    throughput.scroll_into_view_if_needed()
    point = throughput.locator(".scatterlayer .trace .points path").last
    point.wait_for()
    box = point.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector(".plot .hoverlayer .hovertext")
    assert "(3 runs)" in (page.locator(".hoverlayer").first.text_content() or "")


def test_the_table_sorts_by_a_heading_with_mouse_and_keyboard(page: Page) -> None:
    heading = page.locator("#results th", has_text="images/s").first
    button = heading.get_by_role("button")
    rates = [float(text.replace(",", "")) for text in column(page, 5)]
    assert len(rates) == 4
    assert rates != sorted(rates)
    button.click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert [float(text.replace(",", "")) for text in column(page, 5)] == sorted(rates)
    button.focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert [float(text.replace(",", "")) for text in column(page, 5)] == sorted(rates, reverse=True)
    page.locator("#results th").nth(1).get_by_role("button").click()
    assert column(page, 2) == ["mwms", "mwms", "single", "single"]
    assert heading.get_attribute("aria-sort") is None


def test_words_among_numbers_are_sorted_last_either_way(browser: Browser, tmp_path: Path) -> None:
    for model, reached in (("mnist_cnn", None), ("vgg16_cifar", 3.0), ("lenet5", 20.0)):
        add_run(tmp_path / "data", model=model, epochs=3, target_accuracy=0.9, time_to_accuracy_s=reached)
    page = browser.new_page(offline=True)
    page.goto(write(tmp_path / "data").as_uri())
    heads = page.locator("#results th").all_inner_texts()
    place = heads.index("time to accuracy")
    for wanted in (["3 s to 0.9", "20 s to 0.9"], ["20 s to 0.9", "3 s to 0.9"]):
        page.locator("#results th").nth(place).get_by_role("button").click()
        assert column(page, place + 1) == [*wanted, "0.9 not reached"]
    page.close()


def test_the_table_filters_by_words(page: Page) -> None:
    page.get_by_label("Filter").fill("VGG mwms")
    assert column(page, 2) == ["mwms"]
    assert page.get_by_role("status").inner_text() == "1 of 4 rows"
    page.get_by_label("Filter").fill("")
    assert len(column(page, 2)) == 4


def test_tables_and_plots_give_csv(page: Page) -> None:
    page.get_by_label("Filter").fill("vgg16")
    heads, *rows = downloaded(page, page.locator("button[data-table]"))
    assert heads[:3] == ["workload", "strategy", "devices"]
    assert [row[1] for row in rows] == ["single", "mwms"]
    assert [float(row[4]) for row in rows] == pytest.approx([58.3, 112], rel=0.1)
    assert rows[0][8] == ""  # a base case has no interval against itself
    assert rows[0][0] == "vgg16_cifar on synthetic, 64 images a device, 1 core a device"

    heads, *rows = downloaded(page, plot(page, "Throughput").locator("button.csv"))
    assert heads == ["series", "quantity", "devices", "value", "low", "high"]
    assert [row[:3] for row in rows] == [
        ["ideal", "images/s", "1"],
        ["ideal", "images/s", "2"],
        ["single", "images/s", "1"],
        ["mwms", "images/s", "2"],
    ]
    _, _, _, value, low, high = rows[3]
    assert float(low) < float(value) < float(high)
    assert rows[0][4:] == ["", ""]

    heads, *rows = downloaded(page, plot(page, "Step times").locator("button.csv"))
    assert heads == ["series", "configuration", *(f"p{q} step time (ms)" for q in (1, 25, 50, 75, 99))]
    assert [row[:2] for row in rows] == [["single", "single x1"], ["mwms", "mwms x2"]]

    heads, *rows = downloaded(page, plot(page, "Steps of each rank").locator("button.csv"))
    assert heads == ["rank", "timed iteration", "ms a step"]
    assert [row[:2] for row in rows] == [["rank 0 a", "0"], ["rank 0 a", "1"], ["rank 1 b", "0"], ["rank 1 b", "1"]]

    heads, *rows = downloaded(page, plot(page, "Telemetry").locator("button.csv"))
    assert heads[2] == "s"
    assert rows[0] == ["import", "phase (s, from low)", "phase", "2", "0", "2"]
    assert sum(row[:2] == ["rank 1", "CPU (%)"] for row in rows) == 20


TICK = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
PAGE = "getComputedStyle(document.body).backgroundColor"


def test_dark_mode_changes_page_and_plots(page: Page) -> None:
    scroll_down(page)
    page.emulate_media(color_scheme="light")
    until(page, f"{PAGE} == 'rgb(255, 255, 255)' && {TICK} == 'rgb(17, 24, 39)'")
    page.emulate_media(color_scheme="dark")
    until(page, f"{PAGE} == 'rgb(17, 24, 39)' && {TICK} == 'rgb(229, 231, 235)'")


def test_a_phone_shows_it_without_scrolling_sideways(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    scroll_down(page)
    until(page, f"{DRAWN} == {PLOTS}")
    until(page, "document.documentElement.scrollWidth <= 390")


def test_paper_has_every_plot_in_dark_ink_and_the_screen_comes_back(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(DRAWN) < PLOTS
    assert len(page.pdf()) > 50_000
    assert page.evaluate(DRAWN) == PLOTS
    page.emulate_media(media="print")
    until(page, f"{PAGE} == 'rgb(255, 255, 255)' && {TICK} == 'rgb(0, 0, 0)'")
    assert page.evaluate("document.querySelector('.plot .main-svg').getBoundingClientRect().width") <= 680
    assert not page.locator("#filter").is_visible()
    page.emulate_media(media="screen")
    until(page, f"{TICK} == 'rgb(229, 231, 235)'")
    until(page, "document.querySelector('.plot .main-svg').getBoundingClientRect().width < 640")
