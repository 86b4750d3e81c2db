from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.config import parse
from jobs.sweep import Options, Sweep, SweepError, command, load, main, run_all
from tests.benchmark import ROOT

SHIPPED = sorted((ROOT / "jobs" / "sweeps").glob("*.toml"))


def sweep_file(folder: Path, text: str) -> Path:
    path = folder / "sweep.toml"
    path.write_text(text)
    return path


def test_the_matrix_is_every_combination_on_top_of_the_settings(tmp_path: Path) -> None:
    path = sweep_file(
        tmp_path,
        """
        repeats = 2
        [settings]
        seed = 4
        [matrix]
        workload = [{ model = "mnist_cnn", dataset = "digits" }, { model = "vgg16_cifar", seed = 5 }]
        num_workers = [1, 2]
        """,
    )
    sweep = load(path)
    assert sweep.repeats == 2
    assert not sweep.preload
    assert [dict(flags) for flags in sweep.configurations] == [
        {"seed": 4, "model": "mnist_cnn", "dataset": "digits", "num_workers": 1},
        {"seed": 4, "model": "mnist_cnn", "dataset": "digits", "num_workers": 2},
        {"seed": 5, "model": "vgg16_cifar", "num_workers": 1},
        {"seed": 5, "model": "vgg16_cifar", "num_workers": 2},
    ]


def test_repeats_are_interleaved_each_in_an_order_of_its_own() -> None:
    configurations = tuple({"seed": index} for index in range(8))
    sweep = Sweep(configurations=configurations, repeats=3, preload=False)
    runs = [flags["seed"] for flags in sweep.runs()]
    repeats = [runs[start : start + 8] for start in (0, 8, 16)]
    assert all(sorted(repeat) == list(range(8)) for repeat in repeats)
    assert len({tuple(repeat) for repeat in repeats}) == 3
    assert runs == [flags["seed"] for flags in sweep.runs()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("repeat = 2", "unknown key 'repeat'"),
        ("repeats = 0", "repeats is 0"),
        ("preload = 1", "preload is 1"),
        ("settings = 3", "must be tables"),
        ("[matrix]\nnum_workers = 2", "matrix.num_workers is 2; give a list"),
        ("[matrix]\nnum_workers = []", "give a list"),
        ("[matrix]\na = [{ seed = 1 }]\nseed = [2]", "two axes of the matrix set 'seed'"),
        ("repeats = ", "is not TOML"),
    ],
)
def test_a_bad_sweep_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = sweep_file(tmp_path, text)
    with pytest.raises(SweepError) as caught:
        load(path)
    assert message in str(caught.value)
    assert main([str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_values_reach_the_command_as_one_word_each(tmp_path: Path) -> None:
    hostile = "a b; $(touch planted) 'q' \"r\" --seed=3"
    options = Options(file=tmp_path / "mine.toml", results_dir=tmp_path)
    words = command({"label": hostile, "json": False, "batch_size": 4}, options)
    assert words[1:4] == ["-m", "bench.run", f"--label={hostile}"]
    config = parse(words[3:])
    assert config.output.label == hostile
    assert config.output.experiment == "mine"
    assert config.output.json
    assert config.workload.batch_size == 4


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_sweep_holds_valid_commands(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(path), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    sweep = load(path)
    assert len(lines) == len(sweep.configurations) * sweep.repeats > 0
    for line in lines:
        parse(line.split()[3:])


def test_a_run_that_fails_stops_no_other_and_shows_in_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    class Fake:
        returncode = 2

        def __init__(self, words: list[str], **_: Any) -> None:
            ran.append(words)
            ok = '{"status": "ok", "images_per_s": 12.5}\n'
            self.stdout = "bench.run: unknown model 'x'\n" if "--seed=1" in words else "noise\n" + ok

        def communicate(self) -> tuple[str, None]:
            return self.stdout, None

    monkeypatch.setattr("jobs.sweep.subprocess.Popen", Fake)
    sweep = Sweep(configurations=tuple({"seed": seed} for seed in range(3)), repeats=1, preload=False)
    out = io.StringIO()
    assert run_all(sweep, Options(file=tmp_path / "s.toml"), Console(file=out, width=200)) == 4
    assert len(ran) == 3
    said = out.getvalue()
    assert said.count("12.5 images/s") == 2
    assert "refused: bench.run: unknown model 'x'" in said
    assert "1 of 3 runs failed" in said
