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
