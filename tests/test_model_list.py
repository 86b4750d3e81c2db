from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bench.workloads.__main__ import Options, main
from bench.workloads.models import CATALOGUE, MODELS
from tests.benchmark import ROOT

pytestmark = pytest.mark.commands


def test_it_lists_what_is_asked_for() -> None:
    command = [
        sys.executable,
        "-m",
        "bench.workloads",
        "lenet5",
        "keras:MobileNet",
        "--image-size=64",
        "--batch-size=2",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert [line.split()[0] for line in done.stdout.splitlines() if line.strip()][2:4] == ["lenet5", "keras:MobileNet"]
    assert "64x64x1" in done.stdout
    assert "4,253,864" in done.stdout
    assert "trains 2 images a step" in done.stdout


def test_the_machine_readable_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mnist_cnn", "--num-classes=5", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row.pop("predicted_mem_bytes") > 64 * 28 * 28 * 4
    assert row == {
        "model": "mnist_cnn",
        "input": [28, 28, 1],
        "num_classes": 5,
        "num_params": 62_346 - 5 * 1025,
        "trainable_params": 62_346 - 5 * 1025,
        "gradient_bytes": 4 * (62_346 - 5 * 1025),
        "flops_per_image": 2 * (460_800 + 3_276_800 + 5_120),
        "train_flops_per_image": 2 * (2 * 460_800 + 3 * 3_276_800 + 3 * 5_120),
    }


def test_all_models_are_listed_without_a_framework() -> None:
    program = (
        "import sys; from bench.workloads.__main__ import main; code = main(['--json']); "
        "sys.exit(code or str({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == "set()\n"
    rows = {row["model"]: row for row in json.loads(done.stdout)}
    assert list(rows) == [*MODELS, *CATALOGUE]
    assert rows["mnist_cnn"]["train_flops_per_image"] == 2 * (2 * 460_800 + 3 * 3_276_800 + 3 * 10_240)


def test_named_models_are_built_where_the_table_does_not_hold_them(capsys: pytest.CaptureFixture[str]) -> None:
    listed = []
    for words in ([], ["--build"], ["--batch-size=32"]):
        assert main(["lenet5", "--json", *words]) == 0
        listed.append(json.loads(capsys.readouterr().out)[0])
    assert listed[0] == listed[1]
    assert listed[2]["predicted_mem_bytes"] < listed[0]["predicted_mem_bytes"]
    assert not Options(build=True).is_tabled
    assert not Options(image_size=32).is_tabled
    assert not Options(num_classes=10).is_tabled


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ResNet50"], "unknown model 'ResNet50'. Did you mean 'keras:ResNet50'? Valid: alexnet, "),
        (["vgg16", "--image-size=31"], "--image-size 31 leaves nothing of the image before the last layers of model"),
        (["vgg16", "--image-size=0"], "--image-size is 0: give a whole number from 1 to 4096"),
        (["vgg16", "--num-classes=1"], "--num-classes is 1: give a whole number from 2 to 1000000"),
        (["vgg16", "--batch-size=0"], "--batch-size is 0"),
    ],
)
def test_what_cannot_be_listed_is_refused_on_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("bench.workloads: ")
    assert message in said
    assert said.count("\n") == 1
