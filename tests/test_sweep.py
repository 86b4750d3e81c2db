from __future__ import annotations

import io
import json
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from analysis.report import main as main_of_report
from jobs.matrix import Configuration, Run, Sweep, load
from jobs.progress import progress
from jobs.runners import RunnerDied, figures, preloaded
from jobs.sweep import Options, main, record_unheard, run_all, unfinished, wanted
from results.command_line import Refused
from results.store import Store
from tests.benchmark import ROOT

QUICK = ROOT / "jobs" / "sweeps" / "quick.toml"


def sweep_of(*numbers: int, nodes: int = 1, tasks: int = 1) -> Sweep:
    configurations = tuple(
        Configuration(name=f"c{n}", key=f"{n:016x}", flags={"seed": n}, nodes=nodes, tasks_per_node=tasks)
        for n in numbers
    )
    return Sweep(configurations=configurations, repeats=1, preload=False)


class Performer:
    """Takes the place of the processes: answers for each seed in turn, and keeps the commands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: dict[int, list[str]]) -> None:
        self.ran: list[list[str]] = []
        self.seeds: list[int] = []

        def popen(words: list[str], **_: Any) -> Any:
            self.ran.append(words)
            (seed,) = (int(word.partition("=")[2]) for word in words if word.startswith("--seed="))
            self.seeds.append(seed)
            return SimpleNamespace(stdout=io.StringIO(answers[seed].pop(0)), wait=lambda: 0)

        monkeypatch.setattr("jobs.runners.subprocess.Popen", popen)


OK = 'noise\n{"run_id": "r", "status": "ok", "images_per_s": 12.5}\nsrun: some last words\n'
FAILED = '{"run_id": "r", "status": "failed", "error": "it broke"}\n'
REFUSED = "bench.run: unknown model 'x'\nsrun: error: task 0: Exited with exit code 2\n"


def performed(sweep: Sweep, options: Options) -> tuple[int, str]:
    out = io.StringIO()
    return run_all(list(sweep.runs()), sweep, options, Console(file=out, width=200)), out.getvalue()


@pytest.fixture(autouse=True)
def outside_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("jobs.site.PROFILE", Path("/nowhere/site.toml"))


def test_a_run_that_fails_stops_no_other_and_is_tried_again_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    performer = Performer(monkeypatch, {0: [OK], 1: [FAILED, OK], 2: [REFUSED, REFUSED], 3: [OK]})
    code, said = performed(sweep_of(0, 1, 2, 3), Options(file=Path("s.toml")))
    assert code == 4
    assert sorted(performer.seeds[:4]) == [0, 1, 2, 3]
    assert sorted(performer.seeds[4:]) == [1, 2]
    assert said.count("12.5 images/s") == 3
    assert "c1, repeat 1: failed: it broke; once more later" in said
    assert "4/4 c2, repeat 1: refused: bench.run: unknown model 'x'" in said or "3/4 c2, repeat 1: refused" in said
    assert "1 of 4 runs failed" in said


def test_without_retries_a_failure_is_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    performer = Performer(monkeypatch, {0: [FAILED], 1: [OK]})
    code, said = performed(sweep_of(0, 1), Options(file=Path("s.toml"), retries=0))
    assert (code, len(performer.seeds)) == (4, 2)
    assert "once more" not in said


def test_tasks_on_this_machine_are_processes_and_in_an_allocation_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    performer = Performer(monkeypatch, {0: [OK, OK, OK]})
    performed(sweep_of(0, tasks=3), Options(file=Path("s.toml")))
    assert performer.ran[0][:3] == [sys.executable, "-m", "bench.run"]
    assert "--num-processes=3" in performer.ran[0]
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    performed(sweep_of(0, nodes=2, tasks=3), Options(file=Path("s.toml")))
    assert performer.ran[1][:3] == ["srun", "--kill-on-bad-exit=1", "--job-name=c0, repeat 1"]
    assert performer.ran[1][3:5] == ["--nodes=2", "--ntasks-per-node=3"]
    assert not any(word.startswith("--num-processes") for word in performer.ran[1])
    performed(sweep_of(0, tasks=3), Options(file=Path("s.toml"), here=True))
    assert performer.ran[2][0] == sys.executable


def test_a_million_retries_of_nothing_end_at_once() -> None:
    with progress(1, Console(file=io.StringIO())) as tally:
        assert len(list(tally.turns(list(sweep_of(0).runs()), 10**12))) == 1


def test_more_nodes_than_there_are_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    performer = Performer(monkeypatch, {})
    with pytest.raises(Refused, match=r"need 4 nodes but this is one machine: .*salloc.*--submit.*--max-nodes 1"):
        performed(sweep_of(0, nodes=4), Options(file=Path("s.toml")))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    with pytest.raises(Refused, match=r"need 4 nodes but this allocation has 2: .*--max-nodes 2"):
        performed(sweep_of(0, nodes=4), Options(file=Path("s.toml")))
    monkeypatch.setenv("SLURM_STEP_ID", "3")  # a step cannot start steps: it is one machine
    with pytest.raises(Refused, match="but this is one machine"):
        performed(sweep_of(0, nodes=2), Options(file=Path("s.toml")))
    assert performer.ran == []


@pytest.mark.commands
def test_a_preloading_process_that_died_between_two_runs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen

    def dead(_words: list[str], **options: Any) -> subprocess.Popen[str]:
        process = popen([sys.executable, "-c", "print('its last words')"], **options)
        process.wait()
        return process

    monkeypatch.setattr("jobs.runners.subprocess.Popen", dead)
    with pytest.raises(RunnerDied, match="the preloading process died: its last words"), preloaded() as perform:
        perform(["python", "-m", "bench.run"])


def run_row(task: str, status: str) -> dict[str, Any]:
    now = datetime.now(timezone.utc)
    return {
        "run_id": f"r-{task}-{status}",
        "experiment": "e/x",
        "sweep_task": task,
        "status": status,
        "started_at": now,
    }


def test_what_the_store_holds_is_not_run_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    runs = list(sweep_of(0, 1, 2).runs())
    assert unfinished(runs, store.finished_tasks("e/x")) == runs
    for run, status in zip(runs, ("ok", "failed", "interrupted"), strict=True):
        row = run_row(run.task, status)
        store.commit(row["run_id"], row["started_at"], {"runs": [row]})
    assert unfinished(runs, store.finished_tasks("e/x")) == runs[1:]
    assert unfinished(runs, store.finished_tasks("another")) == runs


def test_a_finished_sweep_says_so_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    performer = Performer(monkeypatch, {})
    for run in load(QUICK).runs():
        row = run_row(run.task, "ok") | {"experiment": "quick"}
        Store(tmp_path).commit(row["run_id"], row["started_at"], {"runs": [row]})
    assert main([str(QUICK), f"--results-dir={tmp_path}"]) == 0
    assert "21 of 21 runs of experiment 'quick' are done already" in capsys.readouterr().out
    assert performer.ran == []


def test_a_run_whose_job_never_came_so_far_is_recorded(tmp_path: Path) -> None:
    run = Run(
        Configuration(name="mwms-2x1", key="k", flags={"strategy": "mwms", "seed": 3}, nodes=2, tasks_per_node=1), 1
    )
    store = Store(tmp_path)
    record_unheard(store, run, "e", {"status": "interrupted", "error": "job 7 ended before this run began: CANCELLED"})
    found = store.newest_run(experiment="e", status="interrupted", strategy="mwms", num_nodes=2, sweep_task="k-1")
    assert found is not None
    assert store.finished_tasks("e") == set()
    assert main_of_report([f"--results-dir={tmp_path}", f"--output={tmp_path}/report"]) == 0
    assert "job 7 ended before this run began: CANCELLED" in (tmp_path / "report" / "report.html").read_text()


def test_later_repeats_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('repeats = 3\n[matrix]\nstrategy = ["single", "mwms"]')
    runs = wanted(load(path), Options(file=path, max_repeats=2))
    assert sorted(run.name for run in runs) == [f"{name}, repeat {n}" for name in ("mwms", "single") for n in (1, 2)]
    assert runs == [run for run in load(path).runs() if run.repeat < 3]


def test_configurations_are_chosen_by_name_and_nodes(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('[matrix]\nstrategy = ["single", "mwms"]\nnodes = [1, 2]')
    names = [run.configuration.name for run in wanted(load(path), Options(file=path, only="mwms*", max_nodes=1))]
    assert names == ["mwms-1x1"]
    with pytest.raises(Refused, match="leave no configuration"):
        wanted(load(path), Options(file=path, only="ps*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--retries=-1"], "--retries is -1"),
        (["--max-queued=0"], "--max-queued is 0"),
        (["--max-repeats=0"], "--max-repeats is 0"),
        (["--submit", "--here"], "exclude each other"),
        (["--bogus"], "Unrecognized options: --bogus"),
        (["--only=nothing"], "leave no configuration: see --dry-run"),
        (["--partition=a\nb"], "partition is"),
        (["--site=/nowhere.toml"], "site profile '/nowhere.toml' cannot be read"),
        (["--experiment=\udcff"], "is no text in UTF-8"),
    ],
)
def test_bad_options_are_one_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(QUICK), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.commands
def test_a_missing_slurm_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["--submit", f"--scripts={tmp_path}", f"--results-dir={tmp_path}/data"]
    assert main([str(QUICK), *words]) == 3
    assert "squeue is not on PATH: load the site's Slurm module" in capsys.readouterr().err


def test_dry_run_lists_names_commands_and_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(QUICK), "--dry-run", "--submit", "--partition=gpu", f"--scripts={tmp_path}/jobs"]) == 0
    out = capsys.readouterr().out
    assert out.count(", repeat 1: srun --kill-on-bad-exit=1 '--job-name=") == 7
    assert out.count("#!/bin/bash\n") == 1
    assert "#SBATCH --partition=gpu\n" in out
    assert out.count("\nperform ") == 21
    assert not (tmp_path / "jobs").exists()


RESULT = {"run_id": "R", "status": "timeout", "error": "stopped"}


@pytest.mark.parametrize("line", ["{}", "0: {}", "srun: error: {}", "{}srun: forcing job termination"])
def test_a_result_is_found_among_what_srun_writes_on_its_line(line: str) -> None:
    assert figures([line.replace("{}", json.dumps(RESULT)), "bench.run: stopped"], 124) == RESULT


def test_a_run_without_a_result_is_refused_with_its_own_line() -> None:
    lines = ['{"run_id": "R", "sta', "bench.run: unknown strategy", "srun: error: task 0 exited"]
    assert figures(lines, 2) == {"status": "refused", "error": "bench.run: unknown strategy"}
