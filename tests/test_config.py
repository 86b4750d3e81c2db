from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from bench.config import RunConfig, parse
from bench.errors import UsageError
from bench.workloads import MODELS
from bench.workloads.datasets import DATASETS
from strategies import STRATEGIES, load
from strategies.base import OF_GRADIENTS, ExchangeConfig


def test_defaults_are_those_of_the_dataclasses() -> None:
    assert parse([]) == RunConfig()


def test_flags_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('model = "cifar_cnn"\nnum-iters = 7\nnum_workers = 2\njson = true\ntimeout = 5\n')
    config = parse(["--config", str(file), "--num-iters", "9"])
    assert (config.workload.model, config.measure.num_iters, config.machine.num_workers) == ("cifar_cnn", 9, 2)
    assert config.output.json
    assert config.machine.timeout == 5.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_itres = 3", "unknown setting 'num_itres'. Did you mean 'num-iters'?"),
        ("num_iters = [1, 2]", "a setting has one value"),
        ("num_iters = ", "is not TOML"),
        ("num_workers = 1000000000000", "--num-workers is 1000000000000: give a whole number from 1 to 65535"),
        ("num_iters = 9223372036854775807", "--num-iters is 9223372036854775807: give a whole number from 1 to"),
        ("batch_size = 0", "--batch-size is 0: give a whole number from 1 to 2147483647"),
    ],
)
def test_a_bad_file_is_one_line_with_the_remedy(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        parse([f"--config={file}"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml.*cannot be read"):
        parse(["--config", str(tmp_path / "nowhere.toml")])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--batch-size=-4"], "--batch-size is -4"),
        (["--batch-size", "4", "--global-batch-size", "8"], "exclude each other"),
        (["--image-size", "0"], "--image-size is 0"),
        (["--image-size", "5000"], "--image-size is 5000: give a whole number from 1 to 4096"),
        (["--num-classes", "1"], "--num-classes is 1: give a whole number from 2 to 1000000"),
        (["--num-iters", "0"], "--num-iters is 0"),
        (["--num-warmup-batches", "0"], "--num-warmup-batches is 0"),
        (["--num-workers", "0"], "--num-workers is 0"),
        (["--timeout", "0"], "--timeout is 0"),
        (["--timeout", "nan"], "--timeout is nan"),
        (["--rendezvous-timeout", "inf"], "--rendezvous-timeout is inf: give a number of seconds above 0 and at most"),
        (["--rendezvous-timeout", "1e10"], "--rendezvous-timeout is 1e+10"),
        (["--telemetry-period=-1"], "--telemetry-period is -1"),
        (["--port-base", "65535", "--num-workers", "2"], "--port-base is 65535"),
        (["--seed=-1"], "--seed is -1"),
        (["--lr=0"], "--lr is 0: give a finite number above 0"),
        (["--lr=-0.1"], "--lr is -0.1: give a finite number above 0"),
        (["--lr=nan"], "--lr is nan: give a finite number above 0"),
        (["--lr=inf"], "--lr is inf: give a finite number above 0"),
        (["--num-batches-per-iter=0"], "--num-batches-per-iter is 0"),
        (["--sweep-task=a/b"], "--sweep-task is 'a/b': give a name that a file can have"),
        (["--sweep-task=.."], "--sweep-task is '..'"),
        (["--sweep-task="], "--sweep-task is ''"),
        ([f"--sweep-task={'é' * 128}"], "at most 255 bytes"),
    ],
)
def test_bad_values_are_refused_by_name(flags: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(flags)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("--optimizer=adam", "no weights change"),
        ("--lr=0.1", "no weights change"),
        ("--all-reduce=ring", "no gradients are exchanged"),
        ("--fusion-threshold-mib=0", "no gradients are exchanged"),
        ("--cycle-time-ms=2", "no gradients are exchanged"),
        ("--compression=fp16", "no gradients are exchanged"),
        ("--hierarchical-all-reduce", "no gradients are exchanged"),
        ("--timeline=t.json", "no gradients are exchanged"),
        ("--evidence=e", "there is no training to prove"),
    ],
)
def test_what_only_trains_is_refused_in_the_forward_phase(word: str, why: str) -> None:
    name = word.partition("=")[0]
    with pytest.raises(UsageError) as caught:
        parse(["--phase=forward", word])
    assert str(caught.value) == f"{name} has no effect with --phase forward, in which {why}: leave it out"
    parse(["--phase=train", word])


def test_each_field_of_the_exchange_is_about_gradients_or_not() -> None:
    """A new one is one of them: in the forward phase it is refused or has an effect."""
    others = {"parameter_device", "num_ps", "controller"}
    assert {field.name for field in dataclasses.fields(ExchangeConfig)} == OF_GRADIENTS | others


@pytest.mark.parametrize("flags", [["--no-such-flag"], ["--batch-size", "many"], ["--device", "tpu"]])
def test_what_is_no_flag_or_no_value_of_it_is_one_line(flags: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse(flags)
    assert flags[0] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_is_grouped_and_states_every_default_and_every_valid_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    takers = [name for name in STRATEGIES if len(load(name).all_reduces) > 1]
    (said,) = re.findall(r"Collective of (.*?); auto", text)
    assert said == f"{', '.join(takers[:-1])} and {takers[-1]}"
    for group in ("workload options", "training options", "measure options", "machine options", "output options"):
        assert group in text
    for name in [*MODELS, *DATASETS, *STRATEGIES]:
        assert name in text
    flags = [flag for flag in RunConfig().as_dict() if flag]
    assert text.count("(default:") == len(flags) + 1  # and --config
    for flag in flags:
        assert f"--{flag.replace('_', '-')}" in text


def test_the_configuration_is_saved_in_plain_types(tmp_path: Path) -> None:
    saved = parse(["--data-dir", str(tmp_path), "--batch-size", "3"]).as_dict()
    assert saved["data_dir"] == str(tmp_path)
    assert saved["batch_size"] == 3
    assert saved["global_batch_size"] is None
