from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import preload

pytestmark = pytest.mark.commands


def test_a_fork_s_exit_code_is_that_of_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preload, "run_main", len)
    assert preload.run_in_fork(["a", "b", "c"]).exit_code == 3


def test_an_interrupt_waits_until_the_fork_has_recorded_its_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(_argv: Sequence[str]) -> int:
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(0.5)
        (tmp_path / "recorded").touch()
        return 130

    monkeypatch.setattr(preload, "run_main", run)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        preload.run_in_fork([])
    assert (tmp_path / "recorded").exists()
    assert signal.getsignal(signal.SIGINT) is before
