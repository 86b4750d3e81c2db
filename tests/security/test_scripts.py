"""Hostile words in job scripts: performed by bash with stand-ins for Slurm, they are words and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import render, sweep
from jobs.script import folder_name
from tests.benchmark import ROOT, clean_environment
from tests.hostile import HOSTILE, PRINTABLE

STAND_IN = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["SAID"], "a") as said:
    said.write(json.dumps(sys.argv) + "\\n")
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a name as hostile as names of folders can be, in which nothing but our files may appear."""
    folder = tmp_path / "a $(touch planted) `touch planted`; 'q' \"r\" \\ %j"
    (tmp_path / "bin").mkdir()
    for name in ("srun", "sbatch", "module"):
        (tmp_path / "bin" / name).write_text(STAND_IN)
        (tmp_path / "bin" / name).chmod(0o755)
    folder.mkdir()
    return folder


def performed(script: str, place: Path) -> list[list[str]]:
    """What the script calls, of srun its words after `python`."""
    said = place.parent / "said"
    env = {"PATH": f"{place.parent / 'bin'}:/usr/bin:/bin", "SAID": str(said)}
    subprocess.run(["bash"], input=script, text=True, env=env, cwd=place, check=True)
    assert not list(place.parents[0].rglob("planted"))
    return [json.loads(line) for line in said.read_text().splitlines()]


@pytest.mark.commands
def test_a_rendered_script_hands_on_what_it_was_given(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = [f"--label={text}" for text in HOSTILE]
    modules = [f"--modules={text}" for text in PRINTABLE]
    environment = [f"--environment=V{number}={text}" for number, text in enumerate(PRINTABLE)]
    options = [f"--name={PRINTABLE[0]}", f"--partition={PRINTABLE[-1]}", f"--python={place}"]
    words = ["-m", "bench.run", *labels, f"--results-dir={place}"]
    assert render.main([*options, *modules, *environment, "--", *words[2:]]) == 0
    *loaded, srun = performed(capsys.readouterr().out, place)
    assert [call[1:] for call in loaded] == [["load", text] for text in PRINTABLE]
    assert srun[srun.index(str(place)) + 1 :][: len(words)] == words
    assert f"--job-name={PRINTABLE[0]}" in srun


@pytest.mark.commands
def test_a_sweeps_script_performs_hostile_settings_as_they_are(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = place / "sweep.toml"
    file.write_text(f"[matrix]\nlabel = {json.dumps(HOSTILE)}\n")
    folders = [f"--results-dir={place / 'data'}", f"--scripts={place / 'scripts'}"]
    monkeypatch.setattr("jobs.site.PROFILE", place / "no site")
    assert sweep.main([str(file), *folders, f"--experiment={PRINTABLE[0]}", "--submit", "--dry-run"]) == 0
    script = capsys.readouterr().out.partition("#!/bin/bash")[2]
    (place / "scripts" / folder_name(PRINTABLE[0])).mkdir(parents=True)  # as submitting makes it
    calls = performed(f"#!/bin/bash{script}", place)
    assert {word for call in calls for word in call if word.startswith("--label=")} == {f"--label={t}" for t in HOSTILE}
    assert all(f"--experiment={PRINTABLE[0]}" in call for call in calls)
    assert len(calls) == len(HOSTILE)


@pytest.mark.parametrize("name", [".", "..", "../x", "a/b", *HOSTILE])
def test_the_folder_of_an_experiments_scripts_is_one_below(name: str, tmp_path: Path) -> None:
    folder = tmp_path / folder_name(name)
    folder.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert folder_name(f"{name}2") != folder.name


def test_what_could_not_be_recorded_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert render.main(["--name=a\udcff"]) == 2
    assert "is no text in UTF-8" in capsys.readouterr().err


@pytest.mark.commands
def test_a_name_that_no_process_can_be_given_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text('[matrix]\nlabel = ["a\\u0000b"]\n')
    command = [sys.executable, "-m", "jobs.sweep", str(file), f"--results-dir={tmp_path}/data"]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "jobs.sweep: " in done.stderr
    assert len(done.stderr.splitlines()) == 1
