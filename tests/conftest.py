"""What many tests share."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from hypothesis import settings

from tests.benchmark import Benchmark

# The same examples every time, unless `make fuzz` asks for new ones.
settings.register_profile("seeded", derandomize=True, deadline=None, max_examples=250)
settings.register_profile("long", deadline=None, max_examples=5_000)
settings.load_profile("seeded")


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
