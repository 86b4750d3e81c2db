"""From runs with known rates to the sentences for people who decide."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from analysis.configurations import configurations
from analysis.findings import sentences
from analysis.load import Results
from analysis.options import Selection
from analysis.scaling import Standing, standings
from bench.config import parse
from tests.synthetic_store import add_run

WORKLOAD = "mnist_cnn on synthetic, 64 images a device, 1 core a device: "


def runs(root: Path, strategy: str, devices: int, rates: Sequence[float], **fields: Any) -> None:
    """A run for each rate, in images/s of all devices together."""
    for rate in rates:
        step_s = 64 * devices / rate
        processes = devices + fields.get("num_ps", 0)
        add_run(root, [step_s, step_s], strategy=strategy, num_devices=devices, num_processes=processes, **fields)


def compared(root: Path) -> list[Standing]:
    return standings(configurations(Results(Selection(results_dir=(str(root),))).runs))


def test_the_fastest_how_far_it_scales_and_what_takes_the_rest(tmp_path: Path) -> None:
    shares = {"compute_shares": [0.7] * 8}
    runs(tmp_path, "single", 1, [2000, 2000, 2000])
    for strategy, rates in {"mwms": {2: 3800, 4: 6800, 8: 9600}, "horovod": {2: 3600, 4: 6000}}.items():
        for devices, rate in rates.items():
            runs(tmp_path, strategy, devices, [rate, rate], **shares)
    runs(tmp_path, "independent", 8, [15000, 15000], synchronous=False)
    assert sentences(compared(tmp_path), 0.8) == [
        WORKLOAD + "mwms is the fastest at 4 devices: 6,800 images/s, 13.3% (13.3% to 13.3%) more than horovod. The "
        "efficiency of mwms falls below 80% beyond 4 devices: 60.0% (60.0% to 60.0%) at 8 devices; base case: "
        "single x1, 2,000 images/s. The largest part of the rest goes to communication that nothing hides: 36.0% "
        "(36.0% to 36.0%) of a step."
    ]


def test_what_cannot_be_told_apart(tmp_path: Path) -> None:
    runs(tmp_path, "single", 1, [1000, 1010])
    runs(tmp_path, "mwms", 2, [1900, 2000])
    runs(tmp_path, "horovod", 2, [1890, 1990])
    (sentence,) = sentences(compared(tmp_path), 0.9)
    assert sentence == (
        WORKLOAD + "mwms and horovod cannot be told apart at 2 devices: 1,949 and 1,939 images/s, a difference of "
        "1% (-14% to 18%). The efficiency of mwms stays over 90% up to 2 devices, the most that were measured: 97% "
        "(73% to 129%); base case: single x1, 1,005 images/s."
    )


def test_single_runs_tell_nothing_apart(tmp_path: Path) -> None:
    runs(tmp_path, "single", 1, [2000])
    runs(tmp_path, "mwms", 2, [3000])
    runs(tmp_path, "horovod", 2, [2800])
    (sentence,) = sentences(compared(tmp_path), 0.8)
    assert sentence == (
        WORKLOAD + "mwms and horovod cannot be told apart at 2 devices: 3,000 and 2,800 images/s, and a single run "
        "has no interval. The efficiency of mwms is below 80% already at 2 devices: 75%; base case: single x1, "
        "2,000 images/s. It cannot be told what is lost to communication (no runs of independent with the same "
        "processes and devices) and waiting for the slowest rank (no compute times)."
    )


def test_a_slow_rank_takes_the_rest(tmp_path: Path) -> None:
    runs(tmp_path, "single", 1, [2000])
    runs(tmp_path, "mwms", 2, [3000], compute_shares=[0.4, 0.8])
    runs(tmp_path, "independent", 2, [3100], synchronous=False)
    (sentence,) = sentences(compared(tmp_path), 0.8)
    assert sentence == (
        WORKLOAD + "mwms x2 trains 3,000 images/s; no other strategy was measured with the same devices. The "
        "efficiency of mwms is below 80% already at 2 devices: 75%; base case: single x1, 2,000 images/s. The "
        "largest part of the rest goes to waiting for the slowest rank: 20% of a step."
    )


def test_what_the_base_case_waits_for_too_explains_nothing(tmp_path: Path) -> None:
    runs(tmp_path, "single", 1, [2000])
    runs(tmp_path, "mwms", 2, [3000], compute_shares=[0.7, 0.7])
    runs(tmp_path, "independent", 2, [3010], synchronous=False)
    (sentence,) = sentences(compared(tmp_path), 0.7)
    assert sentence == (
        WORKLOAD + "mwms x2 trains 3,000 images/s; no other strategy was measured with the same devices. The "
        "efficiency of mwms stays over 70% up to 2 devices, the most that were measured: 75%; base case: single x1, "
        "2,000 images/s. Neither communication nor data nor a slow rank explains the rest."
    )


@pytest.mark.parametrize(
    ("rates", "text"),
    [
        ({2: 3000, 4: 4880}, "is below 80% already at 2 devices: 75%, 61% at 4 devices on 2 nodes"),
        ({2: 3800, 4: 4880}, "falls below 80% beyond 2 devices: 61% at 4 devices on 2 nodes"),
        ({2: 3000, 4: 7200}, "is over 80% at 4 devices on 2 nodes, the most that were measured: 90%"),
        ({2: 3800, 4: 7200}, "stays over 80% up to 4 devices on 2 nodes, the most that were measured: 90%"),
    ],
)
def test_where_scaling_stops(tmp_path: Path, rates: dict[int, float], text: str) -> None:
    runs(tmp_path, "single", 1, [2000])
    for devices, rate in rates.items():
        runs(tmp_path, "mwms", devices, [rate], num_nodes=devices // 2)
    (sentence,) = sentences(compared(tmp_path), 0.8)
    assert f" The efficiency of mwms {text}; base case: single x1, 2,000 images/s." in sentence


def test_an_asynchronous_winner_is_named_as_one(tmp_path: Path) -> None:
    runs(tmp_path, "ps", 2, [4000, 4001], num_ps=1, synchronous=False)
    runs(tmp_path, "mwms", 2, [3000, 3001])
    runs(tmp_path, "horovod", 2, [2000, 2001])
    (sentence,) = sentences(compared(tmp_path), 0.8)
    assert sentence.startswith(
        WORKLOAD + "ps is the fastest at 2 devices: 4,000 images/s, 33.3% (33.1% to 33.5%) more than mwms. Its "
        "updates are asynchronous: compare what it learns, too. No base case for"
    )


def test_in_the_forward_phase_no_winner_is_asked_what_it_learns(tmp_path: Path) -> None:
    nothing = {"phase": "forward", "optimizer": None, "learning_rate": None, "synchronous": None}
    runs(tmp_path, "ps", 2, [4000, 4010, 3990], **nothing)
    runs(tmp_path, "mwms", 2, [3000, 3010, 2990], **nothing)
    (sentence,) = sentences(compared(tmp_path), 0.8)
    assert sentence.startswith(
        "mnist_cnn on synthetic, forward, 64 images a device, 1 core a device: ps is the fastest"
    )
    assert "asynchronous" not in sentence
    assert "--dataset=synthetic --batch-size=64 --phase=forward --num-batches-per-iter=10" in sentence
    runs(tmp_path / "alone", "mwms", 2, [3000], **nothing)
    assert "mwms x2 infers 3,000 images/s" in " ".join(sentences(compared(tmp_path / "alone"), 0.8))


def test_parameter_servers_cost_resources(tmp_path: Path) -> None:
    runs(tmp_path, "single", 1, [2000])
    runs(tmp_path, "ps", 4, [8000], num_ps=1, synchronous=False)
    runs(tmp_path, "mwms", 4, [7800])
    (sentence,) = sentences(compared(tmp_path), 0.8)
    assert sentence.endswith(
        "ps x4 takes 1 parameter server besides: counted as devices they lower its efficiency from 100% to 80%."
    )


def test_without_a_base_case_the_command_that_measures_it_is_given(tmp_path: Path) -> None:
    runs(tmp_path, "mwms", 2, [3000], cores_per_device=4.0, xla=True)
    runs(tmp_path, "mwms", 4, [3000], scaling="strong", global_batch=256)
    assert sentences(compared(tmp_path), 0.8) == [
        "mnist_cnn on synthetic, 256 images in all, 1 core a device: mwms x4 trains 3,000 images/s; no other "
        "strategy was measured with the same devices. No base case for mwms x4, so no efficiency: measure it with "
        "python -m bench.run --experiment=e --strategy=single --model=mnist_cnn --image-size=28 --num-classes=10 "
        "--dataset=synthetic "
        "--global-batch-size=256 --num-batches-per-iter=10 --precision=fp32 --device=cpu --cores-per-device=1",
        "mnist_cnn on synthetic, XLA, 64 images a device, 4 cores a device: mwms x2 trains 3,000 images/s; no other "
        "strategy was measured with the same devices. No base case for mwms x2, so no efficiency: measure it with "
        "python -m bench.run --experiment=e --strategy=single --model=mnist_cnn --image-size=28 --num-classes=10 "
        "--dataset=synthetic "
        "--batch-size=64 --num-batches-per-iter=10 --precision=fp32 --device=cpu --cores-per-device=4 --xla",
    ]


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({"cores_per_device": 0.5}, "one device cannot have 0.5 cores; measure all with the same --cores-per-device."),
        ({"preloaded": True}, '"--device=cpu", "--cores-per-device=1"]\' | python -m bench.preload'),
        ({"cores_per_device": None}, "--precision=fp32 --device=cpu"),
    ],
)
def test_what_a_base_case_needs(tmp_path: Path, fields: dict[str, Any], end: str) -> None:
    runs(tmp_path, "mwms", 2, [3000], **fields)
    (sentence,) = sentences(compared(tmp_path), 0.8)
    assert sentence.endswith(end)


def test_the_command_for_a_base_case_is_one(tmp_path: Path) -> None:
    runs(tmp_path, "mwms", 2, [3000], xla=True)
    (sentence,) = sentences(compared(tmp_path), 0.8)
    words = sentence.partition("python -m bench.run ")[2].removesuffix(".").split()
    asked = parse(words).as_dict()
    assert (asked["strategy"], asked["batch_size"], asked["cores_per_device"], asked["xla"]) == ("single", 64, 1, True)


@pytest.mark.parametrize(
    ("fields", "asked", "end"),
    [
        ({"freeze": "base", "epochs": 3}, {"freeze": "base", "epochs": 3, "cache": None}, ""),
        (
            {"dataset": "mnist", "classes": "0-4", "num_train_samples": 1000},
            {"dataset": "mnist", "classes": "0-4", "num_train_samples": 1000},
            "",
        ),
        (
            {"dataset": "tfrecord", "cache": "disk", "data_digest": "d"},
            {"dataset": "tfrecord", "cache": "disk"},
            "",
        ),
    ],
)
def test_the_base_case_has_the_same_data_and_training(
    tmp_path: Path, fields: dict[str, Any], asked: dict[str, Any], end: str
) -> None:
    runs(tmp_path, "single", 1, [2000], batch_per_device=32)  # without epochs and the like
    runs(tmp_path, "mwms", 2, [3000], **fields)
    (said,) = (line for line in sentences(compared(tmp_path), 0.8) if "python -m bench.run" in line)
    words = said.partition("python -m bench.run ")[2]
    assert words.endswith(f"--cores-per-device=1{end}")
    found = parse(words.removesuffix(end).split()).as_dict()
    assert {name: found[name] for name in asked} == asked


def test_unlike_hardware_or_work_is_no_contest_and_is_told_apart(tmp_path: Path) -> None:
    runs(tmp_path, "single", 1, [1000, 1001], device_name="B CPU")
    runs(tmp_path, "mwms", 2, [1900, 1901], device_name="B CPU")
    runs(tmp_path, "single", 1, [100, 101], cache="disk")
    runs(tmp_path, "horovod", 2, [170, 171], cache="disk", status="ok")
    runs(tmp_path, "horovod", 2, [1], cache="none", status="failed", error="x")
    workload = WORKLOAD.removesuffix(": ")
    one, other, _ = sentences(compared(tmp_path), 0.8)
    assert one.startswith(f"{workload}, cache=memory, device_name=B CPU: mwms x2 trains 1,900 images/s; no other")
    assert "base case: single x1, 1,000 images/s" in one
    assert other.startswith(f"{workload}, cache=disk, device_name=A CPU: horovod x2 trains 170.5 images/s; no other")


def test_the_command_for_the_base_case_measures_into_the_same_store_from_the_same_files(tmp_path: Path) -> None:
    folders = {"results_dir": "my results", "data_dir": "/images of mine"}
    runs(tmp_path, "mwms", 2, [3000], dataset="tfrecord", num_warmup_batches=7, config=json.dumps(folders))
    (sentence,) = sentences(compared(tmp_path), 0.8)
    config = parse(shlex.split(sentence.partition("python -m bench.run ")[2]))
    assert (str(config.output.results_dir), str(config.workload.data_dir)) == ("my results", "/images of mine")
    assert (config.measure.num_warmup_batches, config.output.experiment) == (7, "e")


def test_the_words_of_a_store_stand_quoted_in_a_command(tmp_path: Path) -> None:
    runs(tmp_path, "mwms", 2, [3000], model="vgg16; rm -r x", precision="$(x)")
    (sentence,) = sentences(compared(tmp_path), 0.8)
    words = shlex.split(sentence.partition("python -m bench.run ")[2].removesuffix("."))
    assert {"--model=vgg16; rm -r x", "--precision=$(x)"} <= {*words}
    assert "'--precision=$(x)'" in sentence


def test_failures_are_counted_by_strategy_with_the_commonest_error(tmp_path: Path) -> None:
    runs(tmp_path, "single", 1, [2000])
    for error in ("ports taken", "no such host", "no such host"):
        runs(tmp_path, "mwms", 2, [1000], status="failed", error=error)
    runs(tmp_path, "ps", 2, [1000], status="timeout", num_ps=1)
    runs(tmp_path, "horovod", 2, [1000], status="failed", error="a word " * 20)
    assert sentences(compared(tmp_path), 0.8) == [
        WORKLOAD + "single x1, 2,000 images/s; no strategy was measured against it.",
        "5 of 6 runs failed and are in no figure: mwms 3 (2 of them failed: no such host), horovod 1 (failed: "
        + f"{'a word ' * 13}a..."
        + "), ps 1 (timeout).",
    ]


def test_more_workloads_than_anybody_reads_are_left_out(tmp_path: Path) -> None:
    for batch in range(1, 15):
        runs(tmp_path, "single", 1, [1000], batch_per_device=batch)
    said = sentences(compared(tmp_path), 0.8)
    assert len(said) == 13
    assert said[-1] == "2 more workloads are left out here: ask for fewer with --model or --where."
