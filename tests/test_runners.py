"""A runner against a command that stands in for srun."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from jobs.runners import steps

pytestmark = pytest.mark.commands


def test_ctrl_c_is_heard_while_a_run_prints_without_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/bash\nwhile :; do echo Iter; done\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    interrupt = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), steps() as run:
        interrupt.start()
        run(["srun"])
