"""What `bench.verify` does with what it found."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from bench import verify
from bench.equivalence import Finding
from results.store import Store


def test_what_was_found_is_printed_though_it_cannot_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "verifications.parquet")

    monkeypatch.setattr(verify, "prepare", lambda: None)
    monkeypatch.setattr(verify, "examine", lambda *_: Finding(verdict="ok", steps=8))
    monkeypatch.setattr(verify, "_row", lambda *_: {})
    monkeypatch.setattr(Store, "commit", full)
    assert verify.main(["--strategies=mwms", "--devices=2", f"--results-dir={tmp_path}"]) == 2
    said = capsys.readouterr()
    assert [line.split()[:3] for line in said.out.splitlines() if " ok" in line] == [
        ["single", "1", "8"],
        ["mwms", "2", "8"],
    ]
    assert said.err == "bench.verify: cannot read or write 'verifications.parquet': No space left on device\n"


def test_no_number_of_devices_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main(["--devices"]) == 2
    assert capsys.readouterr().err == (
        "bench.verify: --devices names no number of devices: give one or more, as in --devices 1 2\n"
    )
