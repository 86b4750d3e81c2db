from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import slurm
from jobs.matrix import Configuration, Run
from jobs.site import Site
from jobs.slurm import JobState, SlurmAway
from jobs.submission import Submission

RUN = Run(Configuration(name="c", key="k", flags={}, nodes=1, tasks_per_node=1), 1)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def submission(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Submission:
    monkeypatch.setattr("jobs.submission.time.sleep", lambda _seconds: None)
    return Submission(tmp_path, Site(), step_of=lambda _: pytest.fail("no script"), made_by=[], say=said.append)


def journal(folder: Path, *numbers: str) -> None:
    jobs = [{"number": number, "output": f"{folder}/001-c.out", "tasks": [RUN.task]} for number in numbers]
    (folder / "jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))


def test_a_job_that_looks_ended_for_a_moment_is_adopted(
    submission: Submission, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([JobState("COMPLETED", ""), JobState("PENDING", "BeginTime")])
    monkeypatch.setattr(slurm, "states", lambda jobs: {job: next(looks) for job in jobs})
    journal(tmp_path, "", "7")
    assert submission.adopt([RUN]) == {RUN.task}
    assert submission.live == ["7"]


@pytest.mark.parametrize(("number", "adopted"), [("8", {RUN.task}), (None, set())])
def test_a_job_whose_number_was_never_noted_is_found_by_its_script(
    submission: Submission, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str | None, adopted: set[str]
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(slurm, "submitted", lambda script: asked.append(script) or number)
    monkeypatch.setattr(slurm, "states", lambda jobs: dict.fromkeys(jobs, JobState("RUNNING", "None")))
    journal(tmp_path, "")
    assert submission.adopt([RUN]) == adopted
    assert asked == [tmp_path / "001-c.sh"]


def test_a_scheduler_that_stays_away_ends_the_sweep_with_one_line(
    submission: Submission, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 10_000, 600))
    monkeypatch.setattr("jobs.submission.time.monotonic", lambda: next(now))

    def away(_jobs: object) -> None:
        raise SlurmAway("squeue failed: nobody there")

    monkeypatch.setattr(slurm, "states", away)
    journal(tmp_path, "7")
    with pytest.raises(SlurmAway) as caught:
        submission.adopt([RUN])
    assert said == ["squeue failed: nobody there; jobs go on, asking again for 30 min"]
    assert str(caught.value).startswith(
        "squeue failed: nobody there, for 30 min: look whether Slurm is well; jobs go on"
    )


def test_a_job_of_an_earlier_watcher_that_could_never_start_is_withdrawn(
    submission: Submission, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = JobState("PENDING", "PartitionDown")

    def cancel(_number: str) -> None:
        nonlocal state
        cancelled.append(_number)
        state = JobState("CANCELLED", "None")

    cancelled: list[str] = []
    monkeypatch.setattr(slurm, "states", lambda jobs: dict.fromkeys(jobs, state))
    monkeypatch.setattr(slurm, "cancel", cancel)
    journal(tmp_path, "7")
    assert submission.adopt([RUN]) == set()
    assert (submission.live, cancelled) == ([], ["7"])
    assert said == ["job 7 waits: PartitionDown"]


@pytest.mark.parametrize(
    ("output", "error"),
    [
        (f"== {RUN.task} c, repeat 1\n", "job 7 ended while this run was under way: NODE_FAIL"),
        ("module loaded\n", "job 7 ended before this run began: NODE_FAIL"),
    ],
)
def test_a_run_that_said_nothing_ended_as_its_job_did(
    submission: Submission, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, error: str
) -> None:
    looks = iter(["RUNNING", "RUNNING", "NODE_FAIL", "NODE_FAIL"])
    monkeypatch.setattr(slurm, "states", lambda jobs: dict.fromkeys(jobs, JobState(next(looks), "None")))
    journal(tmp_path, "7")
    (tmp_path / "001-c.out").write_text(output)
    submission.adopt([RUN])
    assert [*submission.perform({}, {RUN.task: RUN}, 1)] == [(RUN, {"status": "lost", "error": error}, False)]
