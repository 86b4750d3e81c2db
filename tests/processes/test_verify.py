"""`bench.verify` on the real strategies, and on trainings that were broken on purpose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bench.equivalence import LIMITS
from tests.benchmark import BOUND_S, ROOT, SEVERAL_S, clean_environment
from tests.faults.training import FAULTS

pytestmark = pytest.mark.processes


def verify(folder: Path, *flags: str, broken: str = "") -> tuple[subprocess.CompletedProcess[str], pd.DataFrame]:
    """Runs it with the frameworks loaded and patched by `broken`, and reads the table that it left."""
    program = f"import sys\nfrom bench.verify import main\nfrom bench.preload import prepare\nprepare()\n{broken}\n"
    words = [sys.executable, "-c", f"{program}sys.exit(main(sys.argv[1:]))", "--device=cpu", *flags]
    done = subprocess.run(
        [*words, f"--results-dir={folder}"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    table = folder / "verifications"
    return done, pd.read_parquet(table) if table.exists() else pd.DataFrame()


def test_every_strategy_trains_the_same(tmp_path: Path) -> None:
    done, table = verify(tmp_path, "--devices=2")
    assert done.returncode == 0, done.stdout + done.stderr
    strategies = ["single", "mirrored", "mwms", "central", "ps", "horovod"]
    assert list(table["strategy"]) == [strategy for strategy in strategies for _ in LIMITS]
    assert list(table["precision"]) == ["fp64", "fp32"] * len(strategies)
    assert set(table["verdict"]) == {"ok"}
    for precision, limits in LIMITS.items():
        compared = table[table["precision"] == precision]
        equal = compared[compared["strategy"] != "ps"][1:]
        assert (equal["max_loss_difference"] <= limits.loss).all()
        assert (equal["weight_difference"] <= limits.weights).all()
        assert equal[["samples_ok", "digests_ok"]].all(axis=None)
        assert set(equal["updates"]) == {8}
        (served,) = compared[compared["strategy"] == "ps"].to_dict("records")
        assert served["unapplied"] <= limits.unapplied
        assert served["last_loss"] < served["first_loss"]
        assert pd.isna(served["max_loss_difference"])
    rounded = table[table["precision"] == "fp32"]["weight_difference"]
    assert rounded.max() > 1e-8, "float32 is float64"
    assert "ps is asynchronous" in done.stdout
    assert "Traceback" not in done.stderr


def test_faults_of_the_training_are_seen() -> None:
    """Each under one strategy, in float64, where none may be missed; the table of docs/proof.md has all."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.perf.proof", "--brief"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=SEVERAL_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        (fault.name, fault.strategies[0], "seen") for fault in FAULTS
    ]


def test_a_model_without_float64_is_compared_in_float32(tmp_path: Path) -> None:
    small = ("--image-size=67", "--num-classes=10", "--global-batch-size=2", "--steps=4")
    done, table = verify(tmp_path, "--model=alexnet", "--strategies=mirrored", "--devices=2", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    assert table[["strategy", "precision", "verdict"]].values.tolist() == [
        ["single", "fp32", "ok"],
        ["mirrored", "fp32", "ok"],
    ]
    assert "Compared in float32 only: model 'alexnet' has an operation" in done.stdout
    assert "float64: loss" not in done.stdout


def test_a_parameter_server_that_loses_gradients_is_caught(tmp_path: Path) -> None:
    """Keras's own way to change a variable reads, adds and writes: workers undo each other's work."""
    patch = (
        "import keras\n"
        "def lossy(self, variable, value): variable.assign(variable - value)\n"
        "keras.optimizers.Optimizer.assign_sub = lossy"
    )
    done, table = verify(tmp_path, "--devices=2", "--strategies=ps", "--precisions=fp64", broken=patch)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "the weights are not the sum of all gradients" in table["reason"].iloc[-1]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--model=lenet"], 2, "unknown model 'lenet'"),
        (["--model=keras:ResNet50"], 2, "has batch normalisation, which normalises by the images of one device"),
        (["--model=digits_cnn"], 2, "10 classes of dataset 'digits' but model 'digits_cnn' has 5: --num-classes 10"),
        (["--strategies=mwmss"], 2, "unknown strategy 'mwmss'. Did you mean 'mwms'?"),
        (["--strategies=independent"], 2, "trains each worker's own model by design"),
        (["--model=alexnet", "--precisions=fp64"], 2, "one of model 'alexnet' in float32 alone: use fp32"),
        (["--steps=40"], 2, "--steps is 40: give 4 to 10"),
        (["--devices=5"], 2, "--devices 5 does not share --global-batch-size 24 evenly"),
        (["--results-dir=/proc/nothing"], 3, "cannot be written"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path: Path, flags: list[str], code: int, message: str) -> None:
    command = [sys.executable, "-m", "bench.verify", f"--results-dir={tmp_path}", *flags]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=BOUND_S, check=False
    )
    assert done.returncode == code
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
