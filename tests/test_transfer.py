"""What `bench.transfer` runs, computes and says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import transfer
from bench.errors import UsageError
from bench.transfer import PRETRAINING, SCRATCH, TRANSFER, Options, flags, gain, interval, verdict


def test_an_interval_is_students() -> None:
    found = interval([0.8, 0.85, 0.9])
    # t(0.975, 2 degrees of freedom) = 4.302653, s = 0.05.
    assert found.mean == pytest.approx(0.85)
    assert found.low == pytest.approx(0.85 - 4.302653 * 0.05 / 3**0.5)
    assert found.high == pytest.approx(0.85 + 4.302653 * 0.05 / 3**0.5)
    assert interval([0.9]) == transfer.Interval(0.9, None, None)


def test_intervals_hold_the_mean_as_often_as_they_promise() -> None:
    random = np.random.default_rng(1)
    samples = random.normal(0.9, 0.02, (2000, 3))
    held = sum(found.low <= 0.9 <= found.high for found in map(interval, samples.tolist()))  # type: ignore[operator]
    assert held / 2000 == pytest.approx(0.95, abs=0.015)


def test_a_gain_pairs_the_seeds() -> None:
    """What a seed's images make of both trainings is no part of the difference."""
    found = gain([0.70, 0.80, 0.90], [0.75, 0.85, 0.95])
    assert found.mean == pytest.approx(0.05)
    assert found.low == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("scratch", "transferred", "said"),
    [
        ([0.84, 0.86, 0.87], [0.91, 0.92, 0.93], "Transfer learning is the better one."),
        ([0.95, 0.96, 0.95], [0.88, 0.88, 0.89], "Training from scratch is the better one."),
        ([0.8, 0.9, 0.85], [0.9, 0.8, 0.86], "They cannot be told apart"),
        ([0.8], [0.9], "One seed cannot tell whether that is chance"),
    ],
)
def test_a_verdict_follows_the_interval(scratch: list[float], transferred: list[float], said: str) -> None:
    assert verdict(gain(scratch, transferred)).startswith(said)


@pytest.mark.parametrize(("strategy", "devices"), [("mwms", "--num-workers=2"), ("mirrored", "--devices-per-worker=2")])
def test_the_trainings_of_a_seed_differ_in_what_they_should(strategy: str, devices: str) -> None:
    options = Options(strategy=strategy, devices=2, samples=60, epochs=7)
    made = {name: {*flags(options, name, 3, Path("w.weights.h5"))} for name in (SCRATCH, PRETRAINING, TRANSFER)}
    for words in made.values():
        assert {devices, f"--strategy={strategy}", "--seed=3", "--experiment=transfer"} <= words
    labels = {f"--label={name}" for name in made}
    assert (made[TRANSFER] ^ made[SCRATCH]) - labels == {"--weights=w.weights.h5", "--freeze=base"}
    assert {"--classes=5-9", "--num-train-samples=60", "--epochs=7"} <= made[SCRATCH]
    assert {"--classes=0-4", "--epochs=10", "--save-model=w.weights.h5"} <= made[PRETRAINING]
    assert not any("--num-train-samples" in word for word in made[PRETRAINING])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pretrain-classes=0-4", "--classes=4-8"], "have 4 in common, which would not be unseen"),
        (["--pretrain-classes=0-9"], "10 classes of dataset 'digits' but model 'transfer_cnn' has 5"),
        (["--classes="], "--classes is '': give classes and ranges of them, such as 0-4 or 1,3,5-7"),
        (["--classes=7"], "is a single class, which leaves nothing to tell apart"),
        (["--classes=8-10"], "dataset 'digits' has the classes 0 to 9: choose among them"),
        (["--samples=0"], "--samples is 0: give a whole number from 1 on"),
        (["--samples=30"], "--global-batch-size 20 leaves fewer than two steps in an epoch of --samples 30"),
        (["--dataset=synthetic"], "is noise, in which nothing can be recognised"),
        (["--dataset=mnist", "--data-dir=/nowhere"], "data file 'mnist.npz' not found"),
        (["--dataset=mnist", f"--data-dir={'9' * 5000}"], "cannot read or write '999"),
        (["--model=transfer_cn"], "unknown model 'transfer_cn'. Did you mean 'transfer_cnn'?"),
        (["--strategy=mirored"], "unknown strategy 'mirored'. Did you mean 'mirrored'?"),
        (["--strategy=independent"], "trains a model in each worker"),
    ],
)
def test_bad_input_is_one_clear_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert transfer.main(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_classes_may_be_listed() -> None:
    transfer.check(Options(pretrain_classes="0,2-4", classes="1,9,5"))
    with pytest.raises(UsageError):
        transfer.check(Options(pretrain_classes="0,2-4", classes="4,5"))


def test_the_model_has_as_many_classes_as_were_asked_for() -> None:
    transfer.check(Options(model="digits_cnn", num_classes=7, pretrain_classes="0-6", classes="7-9"))
    with pytest.raises(UsageError, match="5 classes of dataset 'digits' but model 'transfer_cnn' has 3"):
        transfer.check(Options(num_classes=3))
