"""Three ways to perform one run and hear how it went: a new Python, a fork of one with TensorFlow, a step of Slurm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from jobs.script import STEP_NAME
from jobs.slurm import end_step

Figures = dict[str, Any]
"""The last line of `bench.run --json`; of a run that printed none, its status "refused" and why."""

Runner = Callable[[Sequence[str]], Figures]
"""Performs the command of one run to its end. Raises KeyboardInterrupt after a Ctrl-C, when the run has recorded how it
ended."""


class RunnerDied(Exception):
    """Nothing more can be run; one line that says why."""


@contextmanager
def fresh() -> Iterator[Runner]:
    """A new process for each run."""

    def run(words: Sequence[str]) -> Figures:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        # The run gets the same Ctrl-C.
        stdout, interrupted = _until_it_ends(lambda: process.communicate()[0], lambda: None)
        if interrupted:
            raise KeyboardInterrupt
        return figures(stdout.splitlines(), process.returncode)

    yield run


@contextmanager
def steps() -> Iterator[Runner]:
    """A step of the allocation for each run."""

    def run(words: Sequence[str]) -> Figures:
        # Apart from the terminal: srun keeps the first Ctrl-C to itself and kills at the second, or at a SIGTERM.
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        name = next((word.removeprefix(STEP_NAME) for word in words if word.startswith(STEP_NAME)), None)
        stop = process.terminate if name is None else partial(end_step, os.environ["SLURM_JOB_ID"], name)
        stdout, interrupted = _until_it_ends(lambda: process.communicate()[0], stop)
        if interrupted:
            raise KeyboardInterrupt
        return figures(stdout.splitlines(), process.returncode)

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
    )
    assert server.stdin is not None
    assert server.stdout is not None
    requests, answers = server.stdin, server.stdout

    def run(words: Sequence[str]) -> Figures:
        print(json.dumps(list(words[3:])), file=requests, flush=True)
        lines: list[str] = []
        interrupted = False
        while not (lines and lines[-1].startswith('{"exit_code": ')):
            line, again = _until_it_ends(answers.readline, lambda: None)
            interrupted = interrupted or again
            if not line:
                raise RunnerDied(f"the preloading process died: {lines[-1].strip() if lines else 'no output'}")
            lines.append(line)
        if interrupted:
            raise KeyboardInterrupt
        return figures(lines[:-1], json.loads(lines[-1])["exit_code"])

    with server:
        yield run
        requests.close()


def _until_it_ends(wait: Callable[[], str], on_interrupt: Callable[[], None]) -> tuple[str, bool]:
    """(what `wait` returns, was there a Ctrl-C). The run stops its workers and records how it ended: that takes
    seconds, and to leave it earlier would lose the record."""
    interrupted = False
    while True:
        try:
            return wait(), interrupted
        except KeyboardInterrupt:
            if not interrupted:
                on_interrupt()
            interrupted = True


def figures(lines: Sequence[str], exit_code: int | None) -> Figures:
    """What a run said last, of all its lines."""
    for line in reversed(lines):
        if line.startswith('{"run_id"'):
            try:
                found: Figures = json.loads(line)
            except ValueError:
                break
            return found
    ours = [line.strip() for line in lines if line.startswith("bench.run: ")]
    said = ours or [line.strip() for line in lines if line.strip()]
    return {"status": "refused", "error": said[-1] if said else f"exit code {exit_code}"}
