"""Slurm's own commands, asked from outside a job."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.cluster import whole_number

_BOUND_S = 60
_GONE = "gone"
_UNENDED = (
    *("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT", "COMPLETING"),
    *("REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"),
)
_HOPELESS = (
    *("PartitionDown", "PartitionInactive", "PartitionNodeLimit", "PartitionTimeLimit", "BadConstraints"),
    *("InvalidAccount", "InvalidQOS", "AccountNotAllowed", "QOSNotAllowed", "JobHoldMaxRequeue"),
)
_AWAY = re.compile(
    r"contact slurm controller|controller not responding|backup controller|in standby mode|timed out|Zero Bytes|"
    r"Connection (refused|reset)|temporarily unable",
    re.IGNORECASE,
)
_MOST_NODES = 1 << 16
_INTERACTIVE = 0xFFFFFFF0
"""Steps from here on are no users' steps: batch scripts, and the shells that salloc opens on some sites."""


class SlurmFault(Exception):
    """Slurm's commands are missing or refuse; one line with what they said."""

    exit_code = 3


class SlurmRefusal(SlurmFault):
    """Slurm is there and does not do what it was asked."""


class SlurmAway(SlurmFault):
    """The controller does not answer, and may have done what it was asked all the same; it may be there again soon."""


@dataclass(frozen=True)
class JobState:
    """Slurm's word for how a job is, and why it waits or how it ended."""

    name: str
    reason: str

    @property
    def ended(self) -> bool:
        return self.name not in _UNENDED or self.hopeless

    @property
    def hopeless(self) -> bool:
        """It waits for what will not come by itself."""
        return self.name == "PENDING" and self.reason in _HOPELESS


def nodes_of_allocation(env: Mapping[str, str]) -> int | None:
    """Nodes that a process here can start steps on; None outside an allocation, and inside a step of one."""
    if not env.get("SLURM_JOB_ID") or whole_number(env.get("SLURM_STEP_ID", ""), _INTERACTIVE - 1) is not None:
        return None
    name = next((name for name in ("SLURM_JOB_NUM_NODES", "SLURM_NNODES") if env.get(name)), None)
    if name is None:
        return 1
    if not (nodes := whole_number(env[name], _MOST_NODES)):
        raise SlurmFault(f"{name} is {env[name][:80]!r}: Slurm writes a whole number there, of at most {_MOST_NODES}")
    return nodes


def submit(script: Path) -> str:
    """Submits a batch script, unless that was done, and returns the job's number. Raises SlurmFault, also where the job
    could never start; after SlurmAway it may be there."""
    if there := submitted(script):
        return there
    _call("sbatch", "--test-only", str(script))
    return _call("sbatch", "--parsable", str(script)).strip().partition(";")[0]


def submitted(script: Path) -> str | None:
    """Number of the job of a batch script, if Slurm knows one."""
    shown = _call("squeue", "--noheader", f"--user={os.getuid()}", "--states=all", "--format=%A|%o").splitlines()
    return next((job for job, _, path in (line.partition("|") for line in shown) if path.strip() == str(script)), None)


def cancel(job: str) -> None:
    """Ends a job, or takes it out of the queue."""
    _call("scancel", job)


def end_step(job: str, name: str) -> bool:
    """Asks the processes of a job's step of that name to stop, so that they can still record; was there one?"""
    shown = _call("squeue", "--noheader", "--steps", f"--jobs={job}", "--format=%i|%j").splitlines()
    steps = [step for step, _, named in (line.partition("|") for line in shown) if named == name]
    for step in steps:
        _call("scancel", "--signal=TERM", step)
    return bool(steps)


def states(jobs: Collection[str]) -> dict[str, JobState]:
    """How these jobs of this user are. Slurm forgets jobs some minutes after their end: those are gone."""
    if not jobs:
        return {}
    shown = _call("squeue", "--noheader", f"--user={os.getuid()}", "--states=all", "--format=%A|%T|%r")
    found = {job: JobState(state, reason) for job, state, reason in (line.split("|", 2) for line in shown.splitlines())}
    return {job: found.get(job, JobState(_GONE, "Slurm no longer knows it")) for job in jobs}


def _call(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_BOUND_S, check=True)
    except FileNotFoundError:
        raise SlurmFault(f"{words[0]} is not on PATH: load the site's Slurm module, or run the sweep here") from None
    except subprocess.TimeoutExpired:
        raise SlurmAway(f"{words[0]} gave no answer within {_BOUND_S} s") from None
    except subprocess.CalledProcessError as error:
        said = " ".join(line.removeprefix(f"{words[0]}: ").strip() for line in error.stderr.splitlines())
        # A question is only refused by who cannot answer it.
        if words[0] == "squeue" or _AWAY.search(said):
            raise SlurmAway(f"{words[0]} failed: {said or error}") from None
        raise SlurmRefusal(f"{words[0]} refused: {said or error}") from None
    return done.stdout
