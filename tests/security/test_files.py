"""What is written has the mode that the umask leaves, and goes where it should, whatever was planted there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from analysis import history, regress, report
from bench.evidence import Evidence
from jobs import sweep
from results.writing import replacing
from strategies.base import Steps
from tests.synthetic_store import add_run

SBATCH = '#!/bin/sh\n[ "$1" = --test-only ] || echo 7\n'
SQUEUE = '#!/bin/sh\necho "7|COMPLETED|None"\n'


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with runs and a Slurm that ends every job at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr("jobs.site.PROFILE", tmp_path / "none")
    (tmp_path / "bin").mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    for step in (0.1, 0.1001):
        for experiment in ("a", "b"):
            add_run(tmp_path / "results" / "data", [step], experiment=experiment)
    (tmp_path / "one.toml").write_text('[matrix]\nstrategy = "single"\n')
    return tmp_path


def write_everything() -> None:
    """Reports, figures, a history, a baseline, verdicts, a job script and evidence."""
    assert report.main(["--format=html,png,svg"]) == 0
    assert history.main(["--experiment=[ab]"]) == 0  # of the sweep below everything fails
    assert regress.main(["--candidate=a", "--save-baseline=good"]) == 0
    assert regress.main(["--baseline=good", "--candidate=b", "--json=gate.json", "--junit=gate.xml"]) == 0
    assert sweep.main(["one.toml", "--submit", "--retries=0"]) == 4  # no job of this Slurm ever ran
    weights = [np.zeros(2, np.float32)]
    evidence = Evidence(np.zeros(1))
    losses, samples, projections = np.zeros(1), np.zeros((1, 2)), np.zeros((1, 1))
    evidence.add(Steps(loss=losses, data_wait_s=0, compute_s=None, samples=samples, projections=projections))
    evidence.save(Path("evidence"), 0, num_samples=2, updates=1, weights=weights)


NAMES = {"report.html", "history.html", "good.json", "gate.json", "gate.xml", "001-1-node.sh", "rank-00000.npz"}


@pytest.mark.commands
def test_files_have_the_users_mode_and_no_temporary_one_stays(place: Path, umask: int) -> None:
    before = {*place.rglob("*")}
    write_everything()
    made = {*place.rglob("*")} - before
    assert {path.name for path in made} >= NAMES
    assert sum(path.suffix in (".png", ".svg") for path in made) == 2
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made}
    assert modes == {path.name: (0o777 if path.is_dir() else 0o666) & ~umask for path in made}
    assert not [path for path in made if path.name.startswith(".") and path.name != ".sweeps"]


@pytest.mark.commands
def test_a_planted_link_is_replaced_and_not_followed(place: Path) -> None:
    write_everything()
    victim = place / "victim"
    victim.write_text("untouched")
    names = NAMES - {"001-1-node.sh"}  # another at the next job
    ours = [path for path in place.rglob("*") if path.name in names or path.suffix in (".png", ".svg")]
    assert len(ours) == len(names) + 2
    for path in ours:
        path.unlink()
        path.symlink_to(victim)
    write_everything()
    assert victim.read_text() == "untouched"
    assert not any(path.is_symlink() for path in ours)


def test_what_a_sweep_notes_of_its_jobs_goes_through_no_link(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    victim = place / "victim"
    victim.touch()
    scripts = place / "results" / "jobs" / "one"
    scripts.mkdir(parents=True)
    (scripts / "jobs.jsonl").symlink_to(victim)
    assert sweep.main(["one.toml", "--submit", "--retries=0"]) == 3
    assert "jobs.jsonl: Too many levels of symbolic links" in capsys.readouterr().err
    assert victim.read_text() == ""


def test_a_folder_of_ones_own_may_be_a_link(place: Path) -> None:
    (place / "elsewhere").mkdir()
    (place / "reports").symlink_to(place / "elsewhere")
    assert report.main(["--output=reports"]) == 0
    assert [path.name for path in (place / "elsewhere").iterdir()] == ["report.html"]


def test_nothing_is_replaced_by_what_could_not_be_written(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as new:
        new.write_text("half")
        raise KeyboardInterrupt
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]
    assert path.read_text() == "old"


def test_temporary_names_cannot_be_foreseen(tmp_path: Path) -> None:
    names = set()
    for _ in range(5):
        with replacing(tmp_path / "file.txt") as new:
            names.add(new.name)
            new.write_text("x")
    assert len(names) == 5
    assert all(len(name) == len(".0123456789abcdef.txt") for name in names)


@pytest.mark.parametrize("path", ["/dev/null", "/dev/stdout", "/dev/none"])
def test_nothing_in_dev_is_replaced(path: str) -> None:
    there = {name: os.lstat(f"/dev/{name}").st_ino for name in ("null", "stdout")}
    with pytest.raises(OSError, match="is no file that could be replaced"), replacing(Path(path)):
        pass
    assert there == {name: os.lstat(f"/dev/{name}").st_ino for name in there}
    assert not Path("/dev/none").exists()


def test_no_pipe_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is no file that could be replaced"), replacing(tmp_path / "pipe"):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["pipe"]
