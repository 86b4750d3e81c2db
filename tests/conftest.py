"""What many tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.benchmark import Benchmark


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
