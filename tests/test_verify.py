"""What `bench.verify` does with what it found."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from bench import verify
from bench.equivalence import Finding
from bench.errors import UsageError
from bench.workloads import model_spec
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
    assert verify.main(["--device=cpu", "--strategies=mwms", "--devices=2", f"--results-dir={tmp_path}"]) == code
    said = capsys.readouterr()
    assert [line.split()[:3] for line in said.out.splitlines() if f" {verdict}" in line] == [
        ["single", "1", "8"],
        ["mwms", "2", "8"],
    ]
    assert said.err == (
        f"bench.verify: results directory '{tmp_path}' cannot be written (No space left on device): only what is "
        "printed is known; mend it\n"
    )


def test_the_table_has_a_row_per_training_and_says_what_is_wrong_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def examine(case: verify.Case, *_: Any) -> Finding:
        wrong = case.strategy == "mwms" and case.precision == "fp64"
        reason = "the losses are not single's" if wrong else None
        return Finding(verdict="failed" if wrong else "ok", reason=reason, steps=8, updates=8, max_loss_difference=2e-9)

    monkeypatch.setattr(verify, "prepare", lambda: None)
    monkeypatch.setattr(verify, "examine", examine)
    monkeypatch.setattr(verify, "_row", lambda *_: {})
    assert verify.main(["--device=cpu", "--strategies=mwms", "--devices=2", f"--results-dir={tmp_path}"]) == 4
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if line.startswith(" mwms ")] == [
        ["mwms", "2", "8", "-", "-", "2.0e-09", "-", "failed", "2.0e-09", "-", "ok"]
    ]
    assert "mwms x2, float64: failed: the losses are not single's" in lines


def test_no_number_of_devices_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main(["--devices"]) == 2
    assert capsys.readouterr().err == (
        "bench.verify: --devices names no number of devices: give one or more, as in --devices 1 2\n"
    )


def test_steps_that_workers_make_in_turns_are_short_enough_to_come_in_order(tmp_path: Path) -> None:
    """In one call of a worker are all its steps, and which worker's call ends first says nothing of the loss."""
    options = verify.Options(steps=8)
    asynchronous, synchronous = (set(verify.Case(name, 4, "fp64").flags(options, tmp_path)) for name in ("ps", "mwms"))
    assert {"--num-batches-per-iter=1", "--num-iters=31"} <= asynchronous
    assert {"--num-batches-per-iter=7", "--num-iters=1"} <= synchronous


@pytest.mark.parametrize(
    ("flags", "model", "precisions"),
    [
        ({}, "mnist_cnn", ("fp64", "fp32")),
        ({"precisions": ("fp32",)}, "mnist_cnn", ("fp32",)),
        ({}, "alexnet", ("fp32",)),
        ({"precisions": ("fp32",)}, "alexnet", ("fp32",)),
    ],
)
def test_in_which_precisions_a_model_is_compared(
    flags: dict[str, Any], model: str, precisions: tuple[str, ...]
) -> None:
    chosen, why = verify.precisions_of(verify.Options(device="cpu", model=model, **flags), model_spec(model))
    assert chosen == precisions
    assert (why is not None) == (model == "alexnet" and not flags)


def test_on_gpus_float32_alone_is_compared_unless_float64_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_on_gpus", lambda _: True)
    spec = model_spec("mnist_cnn")
    assert verify.precisions_of(verify.Options(), spec)[0] == ("fp32",)
    assert verify.precisions_of(verify.Options(precisions=("fp64",)), spec)[0] == ("fp64",)


def test_float64_is_refused_of_a_model_that_has_an_operation_in_float32_alone() -> None:
    with pytest.raises(UsageError, match=r"one of model 'alexnet' in float32 alone: use fp32, or another model"):
        verify.precisions_of(verify.Options(device="cpu", precisions=("fp64",)), model_spec("alexnet"))
