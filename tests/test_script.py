from __future__ import annotations

import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from bench.config import RunConfig
from jobs.matrix import Configuration, Run
from jobs.render import main
from jobs.script import MARKER, Step, folders_of, launch_words, paths_of, render
from jobs.site import Site, profile_words
from jobs.submission import sections
from jobs.sweep import Options, step_of
from results.command_line import Refused, value_of

HOSTILE = """a b; $(touch planted) `touch planted` 'q' "r" \\ # $HOME %j *"""


def step(*words: str, nodes: int = 2, tasks: int = 1) -> Step:
    return Step(task="k-1", name="c", nodes=nodes, tasks_per_node=tasks, words=words, folders=[Path("/data/results")])


def script(site: Site, *words: str, finished: Path | None = None) -> str:
    return render([step(*words)], site, name="job", output="job.out", finished=finished, made_by="a test")


def performed(text: str, folder: Path, *, code: int = 0) -> list[list[str]]:
    """The words that a script gives to srun, as the shell splits them; srun is a stand-in that writes them down."""
    srun = folder / "srun"
    srun.write_text(
        f'#!/bin/bash\nprintf "%s\\0" "$@" >> {folder}/said\nprintf "\\n\\0" >> {folder}/said\nexit {code}\n'
    )
    srun.chmod(0o755)
    done = subprocess.run(["bash", "-c", text], env={"PATH": f"{folder}:/usr/bin:/bin"}, cwd=folder, check=False)
    assert done.returncode == code
    steps = (folder / "said").read_text().removesuffix("\n\0").split("\n\0")
    return [words.split("\0")[:-1] for words in steps]


def test_a_step_starts_one_process_a_task() -> None:
    words = launch_words(
        step("-m", "bench.run", nodes=3, tasks=2), Site(python="/v/python", mpi="pmix", cpus_per_task=8)
    )
    assert words == [
        *("srun", "--kill-on-bad-exit=1", "--job-name=c", "--nodes=3", "--ntasks-per-node=2", "--cpus-per-task=8"),
        *("--mpi=pmix", "/v/python", "-m", "bench.run"),
    ]
    mpirun = launch_words(step("-m", "bench.run", nodes=3, tasks=2), Site(python="python", launcher="mpirun"))
    assert mpirun[:5] == ["mpirun", "-np", "6", "--map-by", "ppr:2:node"]


def test_a_container_sees_results_and_the_sites_folders() -> None:
    site = Site(container=Path("/images/ts.sif"), container_command="singularity", bind=("/scratch",))
    words = launch_words(step("-m", "bench.run"), site)
    assert words[5:] == [
        *("singularity", "exec", "--nv", "--bind=/data/results", "--bind=/scratch", "--pwd=/data/results"),
        *("/images/ts.sif", "python", "-m", "bench.run"),
    ]


def test_a_run_sees_its_data_its_weights_and_where_it_saves() -> None:
    said = {"data_dir": "/data/imagenet", "weights": "/proj/w.weights.h5", "save_model": "/out/m.keras"}
    found = ["/data/results", "/data/imagenet", "/proj", "/out"]
    assert folders_of(Path("/data/results"), paths_of(said.get)) == [Path(folder) for folder in found]
    assert folders_of(Path("/data/results"), paths_of({}.get)) == [Path("/data/results")]


def test_each_path_of_a_configuration_is_known() -> None:
    """A new one is bound in containers too."""
    groups = RunConfig().groups()
    paths = {each.name for group in groups for each in fields(group) if "Path" in str(each.type)} | {"config"}
    assert {*paths_of(dict.fromkeys(paths, "x").get), "results_dir"} == paths


@pytest.mark.commands
def test_paths_are_absolute_where_a_run_begins_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--data_dir=d", "--config", "c/run.toml", "--weights=w/w.weights.h5", "--evidence=e/e", "--results_dir=r"]
    assert main(["--container=ts.sif", "--", *given]) == 0
    (words,) = performed(capsys.readouterr().out, tmp_path)
    bound = [word.removeprefix("--bind=") for word in words if word.startswith("--bind=")]
    assert bound == [str(tmp_path / name) for name in ("r", "d", "c", "w", "e")]
    assert value_of(words, "data_dir") == str(tmp_path / "d")
    assert value_of(words, "config") == str(tmp_path / "c/run.toml")
    assert value_of(words, "weights") == str(tmp_path / "w/w.weights.h5")
    assert value_of(words, "evidence") == str(tmp_path / "e/e")
    assert value_of(words, "results_dir") == str(tmp_path / "r")


def test_paths_of_a_sweep_are_absolute_in_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    configuration = Configuration(name="c", key="k", flags={"data_dir": "d"}, nodes=1, tasks_per_node=1)
    step = step_of(Run(configuration, 1), Options(file=Path("s.toml")))
    assert f"--data-dir={tmp_path}/d" in step.words
    assert step.folders == [tmp_path / "results/data", tmp_path / "d"]


@pytest.mark.commands
def test_hostile_values_are_words_and_nothing_else(tmp_path: Path) -> None:
    site = Site(environment=(f"NAME={HOSTILE}",), python=HOSTILE)
    text = script(site, "-m", "bench.run", f"--label={HOSTILE}", "--note=two\nlines")
    (words,) = performed(text, tmp_path)
    assert words[4:] == [HOSTILE, "-m", "bench.run", f"--label={HOSTILE}", "--note=two\nlines"]
    assert not (tmp_path / "planted").exists()


def test_a_line_break_in_the_command_line_starts_no_line_of_the_script() -> None:
    text = render([step()], Site(), name="job", output="o", finished=None, made_by="sweep 'x\ntouch planted'")
    assert "\ntouch planted" not in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"partition": "gpu\n#SBATCH --wrap=x"}, "partition is"),
        ({"extra_sbatch": ("--a\n",)}, "extra_sbatch is"),
        ({"modules": ("",)}, "modules is ''"),
        ({"environment": ("A B=1",)}, "environment is 'A B=1': give NAME=VALUE"),
        ({"environment": ("A=1\n2",)}, "environment is"),
        ({"cpus_per_task": 0}, "cpus_per_task is 0"),
        ({"warn_s": -1}, "warn_s is -1"),
    ],
)
def test_settings_that_cannot_stand_in_a_script_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(Refused) as caught:
        Site(**settings)  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.commands
def test_a_failing_run_stops_no_other_and_a_done_one_is_not_repeated(tmp_path: Path) -> None:
    runs = [Step(task=f"k-{n}", name=f"c{n}", nodes=1, tasks_per_node=1, words=[str(n)], folders=[]) for n in range(3)]
    finished = tmp_path / "job.finished"
    text = render(runs, Site(python="p"), name="job", output="o", finished=finished, made_by="a test")
    assert [words[-1] for words in performed(text, tmp_path, code=4)] == ["0", "1", "2"]
    assert not finished.exists()
    finished.write_text("k-1\n")
    (tmp_path / "said").unlink()
    assert [words[-1] for words in performed(text, tmp_path)] == ["0", "2"]
    assert sorted(finished.read_text().split()) == ["k-0", "k-1", "k-2"]


def test_the_output_of_a_job_is_taken_apart_by_run(tmp_path: Path) -> None:
    output = tmp_path / "job.out"
    lines = [
        "module loaded",
        f"{MARKER}k-1 first, repeat 1",
        "Model: mnist_cnn",
        '{"run_id": "r1", "status": "failed", "error": "cut off"}',
        f"{MARKER}k-2 second, repeat 1",
        "bench.run: unknown model 'x'",
        "srun: error: node1: task 0: Exited with exit code 2",
        f"{MARKER}k-1 first, repeat 1",
        '{"run_id": "r2", "status": "ok", "images_per_s": 2.5}',
        "srun: some last words",
        f"{MARKER}k-3 third, repeat 1",
    ]
    output.write_text("\n".join(lines))
    assert sections(output) == {
        "k-1": {"run_id": "r2", "status": "ok", "images_per_s": 2.5},
        "k-2": {"status": "refused", "error": "bench.run: unknown model 'x'"},
        "k-3": None,
    }
    assert sections(tmp_path / "none.out") == {}


@pytest.mark.commands
def test_render_prints_a_script_that_bash_understands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--nodes=2", "--partition=gpu", "--modules=cuda/12", "--extra-sbatch=--reservation=r"]
    profile = tmp_path / "site.toml"
    profile.write_text('partition = "other"\naccount = "a-1"\nshared = true\nmodules = ["gcc"]\nbind = ["/scratch"]\n')
    assert main([*words, f"--site={profile}", "--", "--strategy=mwms", "--label=a b"]) == 0
    text = capsys.readouterr().out
    assert subprocess.run(["bash", "-n", "-c", text], check=False).returncode == 0
    options = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert options == [
        *("--job-name=trainscale", "--nodes=2", "--ntasks-per-node=1", "--output=%x-%j.out"),
        *("--partition=gpu", "--account=a-1", "--signal=USR1@60", "--reservation=r"),
    ]
    assert "set -euo pipefail\n\nmodule load gcc\nmodule load cuda/12\n" in text
    assert f"--results-dir={Path.cwd()}/results/data" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitio = 'x'", "unknown setting 'partitio'; a site has partition, account"),
        ("cpus_per_task = 'many'", "--cpus-per-task"),
        ("time = ", "is not TOML"),
    ],
)
def test_a_bad_site_profile_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    profile = tmp_path / "site.toml"
    profile.write_text(text)
    assert main([f"--site={profile}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_user_without_a_home_has_no_profile(homeless: None) -> None:
    assert profile_words([]) == []


def test_the_profile_at_home_is_read_unless_another_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.site.PROFILE", tmp_path / "site.toml")
    assert profile_words([]) == []
    (tmp_path / "site.toml").write_text('partition = "home"\nenvironment = { A = "1", B = "x y" }\nshared = true')
    assert profile_words([]) == ["--partition=home", "--environment=A=1", "--environment=B=x y", "--shared"]
    with pytest.raises(Refused, match=r"nowhere\.toml.*cannot be read"):
        profile_words([f"--site={tmp_path}/nowhere.toml"])
