"""`bench.verify` on the real strategies, and on strategies that were broken on purpose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.benchmark import BOUND_S, ROOT, clean_environment

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
    assert list(table["strategy"]) == ["single", "mirrored", "mwms", "central", "ps", "horovod"]
    assert set(table["verdict"]) == {"ok"}
    equal = table[table["strategy"] != "ps"][1:]
    assert (equal["max_loss_difference"] <= 1e-5).all()
    assert (equal["max_weight_difference"] <= 1e-5).all()
    assert (equal["weight_difference"] <= 5e-3).all()
    assert equal[["samples_ok", "digests_ok"]].all(axis=None)
    assert set(equal["updates"]) == {8}
    (served,) = table[table["strategy"] == "ps"].to_dict("records")
    assert served["unapplied"] < 1e-3
    assert served["last_loss"] < served["first_loss"]
    assert pd.isna(served["max_loss_difference"])
    assert "ps is asynchronous" in done.stdout
    assert "Traceback" not in done.stderr


BROKEN = {
    "wrong shard": (
        "from strategies.base import Shard, Strategy\n"
        "Strategy.shard = lambda self: Shard(first=0, count=self.local_replicas, total=self.cluster.size)",
        ["mwms", "horovod"],
        "other samples than the global batches were trained",
    ),
    "missing average": (
        "from dataclasses import replace\nimport strategies.mwms as m, strategies.training as t\n"
        "m.MultiWorkerMirrored.trainer = m.Independent.trainer\n"
        "init = t.ReplicatedTrainer.__init__\n"
        "def alone(self, d, w, s, e=None): init(self, d, w, s, e and replace(e, average=lambda gradients: gradients))\n"
        "t.ReplicatedTrainer.__init__ = alone",
        ["mwms", "horovod"],
        "were not averaged",
    ),
    "divided by the local batch": (
        "import strategies.training as t\ncompile_steps = t.compile_steps\n"
        "def local(distribution, *args, images_of_update, **more):\n"
        "    images = images_of_update // distribution.num_replicas_in_sync\n"
        "    return compile_steps(distribution, *args, images_of_update=images, **more)\n"
        "t.compile_steps = local",
        ["mirrored", "mwms", "central"],
        "the losses are not single's; the weights are not single's",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_strategy_that_was_broken_on_purpose_is_caught(tmp_path: Path, how: str) -> None:
    patch, strategies, reason = BROKEN[how]
    done, table = verify(tmp_path, "--devices=2", "--strategies", *strategies, broken=patch)
    assert done.returncode == 4, done.stdout + done.stderr
    assert list(table["verdict"]) == ["ok", *["failed"] * len(strategies)]
    for found in table["reason"][1:]:
        assert reason in found


def test_a_parameter_server_that_loses_gradients_is_caught(tmp_path: Path) -> None:
    """Keras's own way to change a variable reads, adds and writes: workers undo each other's work."""
    patch = (
        "import keras\n"
        "def lossy(self, variable, value): variable.assign(variable - value)\n"
        "keras.optimizers.Optimizer.assign_sub = lossy"
    )
    done, table = verify(tmp_path, "--devices=2", "--strategies=ps", broken=patch)
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
