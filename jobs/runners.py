"""Three ways to perform one run and hear how it went: a new Python, a fork of one with TensorFlow, a step of Slurm.

All inherit the sweep's lock (`jobs.lock`): whoever continues a sweep that was killed waits until its last run is over.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from jobs.cluster import SWEEP_PID
from jobs.launch import interrupts_wait
from jobs.script import STEP_NAME
from jobs.slurm import SlurmFault, end_step

Figures = dict[str, Any]
"""The last line of `bench.run --json`; of a run that printed none, its status "refused" and why."""

Runner = Callable[[Sequence[str]], Figures]
"""Performs the command of one run to its end. Raises KeyboardInterrupt after a Ctrl-C, when the run has recorded how it
ended."""


class RunnerDied(Exception):
    """Nothing more can be run; one line that says why."""

    exit_code = 4


@contextmanager
def fresh() -> Iterator[Runner]:
    """A new process for each run."""

    def run(words: Sequence[str]) -> Figures:
        with interrupts_wait():  # the run gets the same Ctrl-C
            process = subprocess.Popen(
                words,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, SWEEP_PID: str(os.getpid())},
                close_fds=False,
            )
            return figures(*_output(process))

    yield run


@contextmanager
def steps() -> Iterator[Runner]:
    """A step of the allocation for each run."""

    def run(words: Sequence[str]) -> Figures:
        name = next((word.removeprefix(STEP_NAME) for word in words if word.startswith(STEP_NAME)), None)
        process: subprocess.Popen[str] | None = None

        def stop() -> None:
            with suppress(SlurmFault):
                if name is not None and end_step(os.environ["SLURM_JOB_ID"], name):
                    return
            if process is not None:  # mpirun passes it on, srun has nothing to lose before its step has begun
                process.terminate()

        with interrupts_wait(stop):
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                close_fds=False,
                # Apart from the terminal: srun keeps the first Ctrl-C to itself and kills at the second.
                start_new_session=True,
            )
            return figures(*_output(process))

    yield run


@contextmanager
def preloaded() -> Iterator[Runner]:
    """Forks of one process that has loaded TensorFlow (`bench.preload`)."""
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.preload"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, SWEEP_PID: str(os.getpid())},
        close_fds=False,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    requests, answers = server.stdin, server.stdout

    def run(words: Sequence[str]) -> Figures:
        with interrupts_wait():  # the fork gets the same Ctrl-C
            with suppress(BrokenPipeError):  # if it died since the last run, its last words follow
                print(json.dumps(list(words[3:])), file=requests, flush=True)
            lines: list[str] = []
            while not (lines and lines[-1].startswith('{"exit_code": ')):
                line = answers.readline()
                if not line:
                    raise RunnerDied(f"the preloading process died: {lines[-1].strip() if lines else 'no output'}")
                lines.append(line)
            return figures(lines[:-1], json.loads(lines[-1])["exit_code"])

    with server:
        try:
            yield run
        finally:
            with suppress(BrokenPipeError):  # a request that a dead process did not take
                requests.close()


def _output(process: subprocess.Popen[str]) -> tuple[list[str], int]:
    """Lines and exit code of a process that ends by itself."""
    assert process.stdout is not None
    # Line by line: Popen.communicate is one call in C, and a signal that comes together with output would wait for the
    # end of the output.
    with process.stdout as stdout:
        lines = [line for line in stdout]  # noqa: C416
    return lines, process.wait()


def figures(lines: Sequence[str], exit_code: int | None) -> Figures:
    """What a run said last, of all its lines; srun may write words of others or a label on the same line."""
    for line in reversed(lines):
        place = line.find('{"run_id"')
        if place >= 0:
            try:
                found: Figures = json.JSONDecoder().raw_decode(line, place)[0]
            except ValueError:
                break
            return found
    ours = [line.strip() for line in lines if line.startswith("bench.run: ")]
    said = ours or [line.strip() for line in lines if line.strip()]
    return {"status": "refused", "error": said[-1] if said else f"exit code {exit_code}"}
