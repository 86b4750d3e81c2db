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


@pytest.mark.parametrize(("verdict", "code"), [("ok", 3), ("failed", 4)])
def test_what_was_found_is_printed_though_it_cannot_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verdict: str, code: int
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "verifications.parquet")

    monkeypatch.setattr(verify, "prepare", lambda: None)
    monkeypatch.setattr(verify, "examine", lambda *_: Finding(verdict=verdict, steps=8, updates=8))
    monkeypatch.setattr(verify, "_row", lambda *_: {})
    monkeypatch.setattr(Store, "commit", full)
    assert verify.main(["--strategies=mwms", "--devices=2", f"--results-dir={tmp_path}"]) == code
    said = capsys.readouterr()
    assert [line.split()[:3] for line in said.out.splitlines() if f" {verdict}" in line] == [
        ["single", "1", "8"],
        ["mwms", "2", "8"],
    ]
    assert said.err == (
        f"bench.verify: results directory '{tmp_path}' cannot be written (No space left on device): only what is "
        "printed is known; mend it\n"
    )


def test_no_number_of_devices_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main(["--devices"]) == 2
    assert capsys.readouterr().err == (
        "bench.verify: --devices names no number of devices: give one or more, as in --devices 1 2\n"
    )


def test_steps_that_workers_make_in_turns_are_short_enough_to_come_in_order(tmp_path: Path) -> None:
    """In one call of a worker are all its steps, and which worker's call ends first says nothing of the loss."""
    options = verify.Options(steps=8)
    asynchronous, synchronous = (set(verify.Case(name, 4).flags(options, tmp_path)) for name in ("ps", "mwms"))
    assert {"--num-batches-per-iter=1", "--num-iters=31"} <= asynchronous
    assert {"--num-batches-per-iter=7", "--num-iters=1"} <= synchronous
