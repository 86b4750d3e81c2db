"""What many tests share."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.benchmark import Benchmark

# The same examples every time, unless `make fuzz` asks for new ones.
settings.register_profile("seeded", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("long", deadline=None, max_examples=5_000)
settings.load_profile("seeded")


QUICK = "quick"
_FOLDERS = ("frameworks", "processes", "slurm", "browser")
"""Folders without quick tests."""
_MARKERS = ("processes", "commands", "browser")
"""Marks of tests elsewhere that are not quick."""
_SPREAD = ("processes", "slurm")
"""Folders whose tests have little in common, but for those that share runs and are marked with a group."""
_START = ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.system")
"""What Python's audit hooks call the start of a process."""

_quick_test: str | None = None


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    """Fail a quick test that starts a process or loads a framework."""
    if _quick_test and (event in _START or (event == "import" and arguments[0] in ("tensorflow", "keras"))):
        what = " ".join(map(str, (event, *arguments[:1])))
        raise RuntimeError(f"{_quick_test} is not quick ({what}): mark it or move it, see CONTRIBUTING.md")


sys.addaudithook(_audit)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the folders without quick tests where only those are wanted: to collect some loads TensorFlow."""
    is_slow = collection_path.name in _FOLDERS and collection_path.parent == Path(__file__).parent
    return True if config.option.markexpr == QUICK and is_slow else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests as quick that are not in a folder, or marked, as something else; and those of one file as a group,
    which one process of pytest performs, where they may share what is costly."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder not in _SPREAD and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
        if folder not in _FOLDERS and not any(item.get_closest_marker(marker) for marker in _MARKERS):
            item.add_marker(QUICK)


@pytest.fixture(autouse=True)
def _watched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    global _quick_test  # noqa: PLW0603 the hook cannot be told otherwise, nor removed
    if not request.node.get_closest_marker(QUICK):
        yield
        return
    # Stores are written by the thousand, and no power fails.
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    _quick_test = request.node.nodeid
    yield
    _quick_test = None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if os.environ.get("CI") and skipped:
        terminalreporter.section("skipped in continuous integration, which counts as failed")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter and reporter.stats.get("skipped") and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    """`bench.run` with results in a folder of the test's own."""
    return Benchmark(tmp_path / "data")


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of whom the machine knows nothing but a number, as in some containers."""

    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
