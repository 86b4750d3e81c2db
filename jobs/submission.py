"""Runs as Slurm jobs: written as scripts, submitted, watched, and found again after the watcher was interrupted."""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from jobs import slurm
from jobs.matrix import Run
from jobs.runners import Figures, figures
from jobs.script import MARKER, Step, render
from jobs.site import Site
from jobs.slurm import JobState, SlurmAway, SlurmRefusal
from results.writing import replacing

T = TypeVar("T")

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 15.0
_CONFIRMATION_S = 2.0
_PATIENCE_S = 1800.0
"""How long a controller may be away: long enough to be restarted, or moved to another machine."""
_USUAL_REASONS = frozenset(("None", "Priority", "Resources", "BeginTime"))

_STATUS = {"CANCELLED": "interrupted", "TIMEOUT": "timeout", "DEADLINE": "timeout", "OUT_OF_MEMORY": "oom"}
"""How a job ended -> the status of its runs that said nothing; of all other ends it is "lost"."""


@dataclass(frozen=True)
class Job:
    """A job: its number, empty before Slurm has told it, where it writes, and the tasks of its runs in order."""

    number: str
    output: str
    tasks: tuple[str, ...]

    @property
    def script(self) -> Path:
        return Path(self.output.removesuffix(".out") + ".sh")


class Submission:
    """The jobs of one experiment, whose scripts, outputs and numbers are kept in `folder`."""

    def __init__(
        self,
        folder: Path,
        site: Site,
        *,
        step_of: Callable[[Run], Step],
        made_by: Sequence[str],
        say: Callable[[str], None],
    ) -> None:
        self._folder, self._site, self._step_of, self._say = folder.absolute(), site, step_of, say
        self._made_by = shlex.join(made_by)
        self._journal = self._folder / "jobs.jsonl"
        self._live: dict[str, Job] = {}
        self._reasons: dict[str, str] = {}

    def script(self, runs: Sequence[Run], name: str) -> str:
        """The batch script of a job that performs these runs."""
        output = self._folder / f"{name}.out"
        return render(
            [self._step_of(run) for run in runs],
            self._site,
            name=name,
            output=str(output).replace("%", "%%"),  # else sbatch fills something in
            finished=self._folder / f"{name}.finished",
            made_by=self._made_by,
        )

    def adopt(self, runs: Sequence[Run]) -> set[str]:
        """Tasks of these runs in jobs of an earlier watcher that have not ended: they are watched too."""
        ours = {run.task for run in runs}
        jobs = {job.number: job for job in self._earlier() if ours & {*job.tasks}}
        for look in range(2):  # as in `perform`
            if look and len(self._live) < len(jobs):
                time.sleep(_CONFIRMATION_S)
            states = self._states(jobs)
            self._live |= {number: jobs[number] for number, state in states.items() if not state.ended}
        return {task for job in self._live.values() for task in job.tasks} & ours

    def _earlier(self) -> Iterator[Job]:
        """The jobs in the journal; who wrote it may have died before it heard a job's number."""
        jobs = {}
        for line in _lines(self._journal):
            with suppress(ValueError):  # half a line was written before Slurm had its job
                each = json.loads(line)
                jobs[each["output"]] = Job(each["number"], each["output"], tuple(each["tasks"]))
        for job in jobs.values():
            if number := job.number or self._patiently(partial(slurm.submitted, job.script)):
                yield replace(job, number=number)

    @property
    def live(self) -> list[str]:
        """Numbers of the jobs that have not ended."""
        return list(self._live)

    def perform(
        self, groups: Mapping[str, Sequence[Run]], runs: Mapping[str, Run], max_queued: int
    ) -> Iterator[tuple[Run, Figures, bool]]:
        """Submits a job a group and yields each run of `runs` (task -> run) with its figures as they become known, at
        the latest when its job has ended, and whether to try again is hopeless. Raises SlurmFault where Slurm is not
        there."""
        waiting = deque(groups.items())
        wait_s = _FIRST_WAIT_S
        told: set[str] = set()
        ending: set[str] = set()
        while waiting or self._live:
            while waiting and len(self._live) < max_queued:
                name, group = waiting.popleft()
                try:
                    self._submit(name, group)
                except SlurmRefusal as refusal:
                    yield from ((run, {"status": "failed", "error": str(refusal)}, True) for run in group)
            before = len(told), len(self._live)
            for job, state in self._look():
                # A job that is requeued may look ended, or be unknown, for a moment: two looks in a row must say so.
                over = state.hopeless or (state.ended and job.number in ending)
                (ending.add if state.ended else ending.discard)(job.number)
                said = sections(Path(job.output))
                for task in job.tasks:
                    found = said.get(task)
                    good = found is not None and found["status"] == "ok"
                    if task in runs and task not in told and (good or over):
                        told.add(task)
                        yield runs[task], found or _unheard(job, state, begun=task in said), state.hopeless
                if over:
                    del self._live[job.number]
            changed = before != (len(told), len(self._live))
            wait_s = _FIRST_WAIT_S if changed else min(_LONGEST_WAIT_S, wait_s * 1.5)
            if self._live:
                time.sleep(max(wait_s, _CONFIRMATION_S) if ending & {*self._live} else wait_s)

    def _submit(self, name: str, runs: Sequence[Run]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        number = 1 + sum(1 for _ in self._folder.glob("*.sh"))
        name = f"{number:03d}-{name}"
        path = self._folder / f"{name}.sh"
        with replacing(path) as new:
            new.write_text(self.script(runs, name))
        job = Job("", str(self._folder / f"{name}.out"), tuple(run.task for run in runs))
        self._note(job)  # before Slurm has it: whoever comes next must not submit it again
        job = replace(job, number=self._patiently(lambda: slurm.submit(path)))
        self._note(job)
        self._live[job.number] = job
        self._say(f"job {job.number}: {len(runs)} run(s), {path}")

    def _note(self, job: Job) -> None:
        with open(self._journal, "a", opener=_no_link) as journal:
            journal.write("\n" + json.dumps(asdict(job)))  # whatever was left half written ends here
            journal.flush()
            os.fsync(journal.fileno())

    def _patiently(self, ask: Callable[[], T]) -> T:
        """What Slurm answers, asked again while its controller is away: its jobs go on meanwhile. Raises SlurmAway."""
        wait_s, since = _FIRST_WAIT_S, None
        while True:
            try:
                answer = ask()
            except SlurmAway as away:
                now = time.monotonic()
                if since is None:
                    since = now
                    self._say(f"{away}; jobs go on, asking again for {_PATIENCE_S / 60:.0f} min")
                if now - since >= _PATIENCE_S:
                    raise SlurmAway(
                        f"{away}, for {(now - since) / 60:.0f} min: look whether Slurm is well; jobs go on, and the "
                        "same command continues"
                    ) from None
                time.sleep(wait_s)
                wait_s = min(_LONGEST_WAIT_S, wait_s * 1.5)
            else:
                if since is not None:
                    self._say("Slurm answers again")
                return answer

    def _look(self) -> list[tuple[Job, JobState]]:
        return [(self._live[number], state) for number, state in self._states(self._live).items()]

    def _states(self, jobs: Collection[str]) -> dict[str, JobState]:
        """How these jobs are; one that could never start is withdrawn, or it would run when nobody watches it."""
        states = self._patiently(lambda: slurm.states(jobs))
        for number, state in states.items():
            if state.name == "PENDING" and state.reason not in _USUAL_REASONS:
                self._tell(number, f"job {number} waits: {state.reason}")
            if state.hopeless:
                self._patiently(partial(slurm.cancel, number))
        return states

    def _tell(self, about: str, line: str) -> None:
        if self._reasons.get(about) != line:
            self._reasons[about] = line
            self._say(line)


def grouped(runs: Sequence[Run], job_per: str) -> dict[str, list[Run]]:
    """Runs that share a job, by the job's name: those that need as many nodes, or those of one configuration."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        nodes = run.configuration.nodes
        name = run.configuration.name if job_per == "configuration" else f"{nodes}-node{'s' if nodes > 1 else ''}"
        groups.setdefault(name, []).append(run)
    return groups


def sections(output: Path) -> dict[str, Figures | None]:
    """Task -> what its run said, None where it said nothing, of every run that a job's output shows to have begun; of
    two attempts the last."""
    found: dict[str, list[str]] = {}
    task = ""
    for line in _lines(output):
        begun = re.match(rf"{MARKER}(\S+) ", line)
        if begun:
            task = begun.group(1)
            found[task] = []
        elif task:
            found[task].append(line)
    return {task: figures(lines, None) if any(map(str.strip, lines)) else None for task, lines in found.items()}


def _unheard(job: Job, state: JobState, *, begun: bool) -> Figures:
    """Of a run that said nothing until its job had ended."""
    why = f" ({state.reason})" if state.reason not in ("None", "") else ""
    if state.hopeless:
        return {"status": "failed", "error": f"job {job.number} was withdrawn, it could never start{why}"}
    when = "while this run was under way" if begun else "before this run began"
    error = f"job {job.number} ended {when}: {state.name}{why}"
    return {"status": _STATUS.get(state.name, "lost"), "error": error}


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
