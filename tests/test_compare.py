"""Sides by name, and what a comparison of them says."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.compare import main
from tests.synthetic_store import add_run


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results" / "data"


def measure(root: Path, step: float, count: int = 4, **fields: object) -> None:
    for number in range(count):
        add_run(root, [step * (1 + number / 1000)], **fields)


def said(capsys: pytest.CaptureFixture[str], words: list[str], code: int = 0) -> str:
    assert main(words) == code
    captured = capsys.readouterr()
    if code == 2:
        assert len(captured.err.splitlines()) == 1
    return " ".join((captured.out + captured.err).split())


def test_ratios_to_the_first_side_and_what_changed(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure(store, 0.1, experiment="a")
    measure(store, 0.125, experiment="b", provenance={"hostname": "h2", "tensorflow_version": "2.20.0"})
    measure(store, 0.1, experiment="c")
    out = said(capsys, ["a", "b", "c"])
    assert "639 images/s 511.2 images/s 0.800 (0.79" in out
    assert "639 images/s 639 images/s not significant (0.99" in out
    assert "a -> b: tensorflow_version: 2.21.0 -> 2.20.0; hostname: h -> h2" in out
    assert "a -> c: nothing that is recorded changed" in out


def test_sides_are_experiments_labels_runs_directories_and_patterns(
    store: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    measure(store, 0.1, experiment="a", label="first")
    measure(store, 0.2, experiment="b-1", label="second")
    measure(store, 0.2, experiment="b-2", label="second")
    measure(tmp_path / "other" / "data", 0.4, run_id="X1", count=1)
    assert " 0.500 (" in said(capsys, ["a", "second"])
    assert " 0.500 (" in said(capsys, ["experiment:a", "b-*"])
    assert " 0.999 (one run has no interval)" in said(capsys, ["run:R00000", "R00001"])
    assert " 0.250 (one run has no interval)" in said(capsys, ["label:first", f"{tmp_path}/other/data"])


def test_only_what_is_the_same_is_compared(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure(store, 0.1, experiment="old", device_name="A GPU")
    measure(store, 0.05, experiment="new", device_name="B GPU")
    measure(store, 0.05, experiment="new", device_name="A GPU", strategy="mwms", num_nodes=2)
    assert (
        "'old' and 'new' have no configuration in common: the nearest differ in device_name (A GPU and B GPU). "
        "To compare them all the same, give --across=device_name"
    ) in said(capsys, ["old", "new"], code=2)
    out = said(capsys, ["old", "new", "--across=device_name"])
    assert " 2.000 (" in out
    assert "compared across device_name: A GPU -> B GPU" in out
    assert "only in new: mwms x1 on 2 nodes: mnist_cnn on synthetic" in out


def test_what_ran_on_both_sides_and_has_no_figure_on_one_is_told(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = {"strategy": "mwms", "num_processes": 2, "num_devices": 2}
    for experiment in ("a", "b"):
        measure(store, 0.1, experiment=experiment)
    measure(store, 0.1, experiment="a", **two)
    measure(store, 0.1, experiment="b", status="failed", error="no such host", **two)
    title = "mwms x2: mnist_cnn on synthetic, 64 images a device, 1 core a device"
    out = said(capsys, ["a", "b", "--metric=images_per_s"])
    assert f"no images_per_s in b: {title} (failed: no such host)" in out
    assert "only in" not in out
    assert "no images_per_s in a" not in out
    measure(store, 0.1, experiment="c")
    measure(store, 0.1, experiment="c", time_to_accuracy_s=3.0, model="vgg16")
    measure(store, 0.1, experiment="d", time_to_accuracy_s=3.0, model="vgg16")
    measure(store, 0.1, experiment="d", time_to_accuracy_s=2.0)
    out = said(capsys, ["c", "d", "--metric=time_to_accuracy_s"])
    assert "no time_to_accuracy_s in c: single x1: mnist_cnn" in out
    assert "no time_to_accuracy_s in d" not in out


def test_the_base_case_has_no_efficiency_to_be_missed(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for experiment in ("a", "b"):
        measure(store, 0.1, experiment=experiment)
        measure(store, 0.1, experiment=experiment, strategy="mirrored", num_devices=2)
    assert "no efficiency in" not in said(capsys, ["a", "b", "--metric=efficiency"])


def test_what_may_not_be_pooled_is_not(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure(store, 0.1, experiment="old")
    for name in ("B", "C"):
        measure(store, 0.1, experiment="new", device_name=name)
    out = said(capsys, ["old", "new", "--across=device_name"], code=2)
    assert "'new' holds runs that may not be pooled: they differ in device_name (B and C)" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "name two or more different sides"),
        (["a", "a"], "name two or more different sides"),
        (["a", "x"], "no run of experiment or label or run or baseline 'x'. There are: a, both, of"),
        (["a", "label:x"], "no run of label 'x'. There are: both, one"),
        (["a", "both"], "'both' is the name of different runs: say experiment:both or label:both"),
        (["a", "label:one"], "'a' and 'label:one' share run R00000"),
        (["a", "of", "--metric=efficiency"], "no configuration has efficiency on both sides (measure the base case"),
        (["a", "of", "--model=vgg16"], "no run of model 'vgg16'"),
    ],
)
def test_bad_sides_are_one_line(
    store: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    measure(store, 0.1, experiment="a", label="one")
    measure(store, 0.1, experiment="both", label="one")
    measure(store, 0.1, experiment="of", label="both")
    assert message in said(capsys, words, code=2)
