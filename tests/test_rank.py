"""How a rank's part ends where a file cannot be written."""

from __future__ import annotations

import errno
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import rank, worker
from bench.config import parse
from bench.errors import EnvironmentFault

HDF5 = OSError(
    errno.ENOSPC, "Can't synchronously write data (file write failed: time = Sun Nov 22 22:31:13 2026\n, ..."
)


def fails(*_: object) -> None:
    raise HDF5


def test_a_model_that_cannot_be_saved_is_named_and_the_last_one_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_text("the last one")
    trainer: Any = SimpleNamespace(save=fails)
    with pytest.raises(
        EnvironmentFault, match=r"'.*/model.keras' cannot be written \(No space left on device\): make room"
    ):
        rank._save(trainer, path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("model.keras", "the last one")]


def test_a_file_that_has_no_name_is_told_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: dict[str, Any] = {}
    log: Any = SimpleNamespace(end=lambda **how: ended.update(how) or True, phase="timed")
    one: Any = SimpleNamespace(train=fails)
    monkeypatch.setattr(worker, "stoppable", nullcontext)
    plan: Any = SimpleNamespace(config=parse(["--results-dir=kept"]))
    assert worker._perform(one, plan, log, speaks_for_itself=False) == 3
    assert ended["error"] == "kept: Can't synchronously write data (file write failed: time = Sun Nov 22 22:31:13 2026"
