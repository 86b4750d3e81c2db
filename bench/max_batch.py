"""`--find-max-batch`: the largest batch that a device can hold, by runs that are short and otherwise as asked for.

Each trial is a run in fresh processes, because no framework gives memory back as it got it, and is recorded with
`--trial`, so that the analysis leaves it out. One that runs out of memory has status `oom`; one that the kernel kills,
or that crashes after an allocation failed in native code, did not fit either. Whatever else goes wrong ends the search
with that run's exit code.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from bench import output
from bench.config import MeasureConfig, RunConfig
from bench.errors import UsageError
from jobs.cluster import SWEEP_PID, ClusterEnv
from jobs.launch import stop_signals
from results.command_line import flag, words_of
from results.exit_codes import ExitCode
from results.schema import TRIAL_EXPERIMENT

FIRST, MOST = 64, 16384
"""Images a device: where the search begins and ends if no flag says so."""

_PARTS = 8
"""Between a batch that fits and twice as much, so many are told apart."""

_SHORT = {"num_warmup_batches": 2, "num_batches_per_iter": 1, "num_iters": 1}
"""A trial: the second step needs all that any later one needs."""

_KILLED_BY_MEMORY = ("SIGKILL", "std::bad_alloc", "ran out of memory")
"""In the error of a lost rank."""


def search(fits: Callable[[int], bool], first: int, most: int) -> tuple[int | None, int | None]:
    """(the largest batch tried that fits, the smallest tried that does not), each None where there is none.

    Doubles from `first` on, or halves until one fits; then halves what lies between in whole steps of an eighth of the
    one that fits. Never tries more than `most`, nor one batch twice.
    """
    good, bad = None, None
    batch = min(first, most)
    while batch >= 1 and (good is None or bad is None):
        if fits(batch):
            good = batch
            if bad is not None or good == most:
                break
            batch = min(2 * batch, most)
        else:
            bad = batch
            if good is not None:
                break
            batch //= 2
    if good is None or bad is None:
        return good, bad
    step = max(1, good // _PARTS)
    while bad - good > step:
        middle = good + max(step, (bad - good) // (2 * step) * step)
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good, bad


def check(config: RunConfig, cluster: ClusterEnv | None) -> None:
    """Raises UsageError for what the search cannot do."""
    if cluster is not None:
        raise UsageError(
            f"--find-max-batch starts one run after another, but {cluster.source} started this process as one of "
            "several that would have to do so together: call it alone, on a node of the same kind; what a device can "
            "hold does not depend on the number of nodes"
        )
    for value, name, why in (
        (config.output.sweep_task, "sweep_task", "a sweep's task is one run"),
        (config.output.evidence, "evidence", "trials prove nothing"),
        (config.training.epochs, "epochs", "trials have one timed step"),
        (config.training.save_model, "save_model", "trials train nothing worth keeping"),
        (config.measure.measure_peak, "measure_peak", "its matrices need memory of their own"),
        (config.output.dry_run, "dry_run", "which runs there will be depends on how each has ended"),
    ):
        if value:
            raise UsageError(f"{flag(name)} does not go with --find-max-batch, because {why}: leave one of them out")
    for field in dataclasses.fields(MeasureConfig):
        if field.name in _SHORT and getattr(config.measure, field.name) != field.default:
            steps = ", ".join(f"{count} {name}" for name, count in _SHORT.items())
            raise UsageError(f"{flag(field.name)} has no effect with --find-max-batch, whose runs have {steps}")
    most = config.workload.max_batch_size or MOST
    if (config.workload.batch_size or 0) > most:
        raise UsageError(f"--batch-size {config.workload.batch_size} is more than --max-batch-size {most}")


def find(config: RunConfig, cluster: ClusterEnv | None) -> int:
    """Searches, prints every trial and the answer, and returns the exit code: that of a trial that failed otherwise
    than for want of memory, 124 when --timeout has passed, 4 when nothing fits. A search that ends early says
    what has fitted until then. Raises UsageError."""
    check(config, cluster)
    most = config.workload.max_batch_size or MOST
    trials = _Trials(config)
    with trials.stoppable():
        try:
            good, bad = search(trials.fits, config.workload.batch_size or min(FIRST, most), most)
        except _Ended as end:
            if fitted := [trial["batch_per_device"] for trial in trials.done if trial["fits"]]:
                output.complain(f"the search is not finished; the largest batch that fitted is {max(fitted)} a device")
            return end.exit_code
    found = {
        "max_batch_per_device": good,
        "smallest_that_does_not_fit": bad,
        "max_batch_size": most,
        "trials": trials.done,
    }
    output.print_max_batch(found, as_json=config.output.json)
    return int(ExitCode.OK if good else ExitCode.WORKLOAD)


def does_not_fit(status: str | None, error: str | None) -> bool:
    """Whether a run ended for want of memory."""
    return status == "oom" or (status == "lost" and any(words in (error or "") for words in _KILLED_BY_MEMORY))


class _Ended(Exception):
    """The search cannot go on."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class _Trials:
    """Runs of one configuration with different batches, one after another."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._deadline = time.monotonic() + config.machine.timeout
        self._process: subprocess.Popen[str] | None = None
        self._stopped: int | None = None
        self.done: list[dict[str, Any]] = []

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Meanwhile a request to stop goes to the trial, which records how it ended."""

        def stop(signum: int, _frame: FrameType | None) -> None:
            self._stopped = signum
            if self._process is not None:
                self._process.send_signal(signum)

        before = {signum: signal.signal(signum, stop) for signum in stop_signals()}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def fits(self, batch: int) -> bool:
        """Whether a run with that batch goes well. Raises _Ended where it fails for another reason."""
        left_s = self._deadline - time.monotonic()
        if self._stopped is not None:
            raise _Ended(_code_of(self._stopped))
        if left_s <= 0:
            output.complain(f"not finished after {self._config.machine.timeout:g} s (--timeout)")
            raise _Ended(ExitCode.TIMEOUT)
        code, stdout, stderr = self._perform(words(self._config, batch, left_s))
        figures = _figures(stdout)
        fits = code == ExitCode.OK
        if not fits and not does_not_fit(figures.get("status"), figures.get("error")):
            print(stderr, end="", file=sys.stderr)
            raise _Ended(code if code > 0 else _code_of(-code))
        kept = ("run_id", "batch_per_device", "status", "error", "framework_peak_mem_bytes", "predicted_mem_bytes")
        trial = {name: figures[name] for name in kept} | {"fits": fits}
        self.done.append(trial)
        output.print_trial(trial)
        return fits

    def _perform(self, argv: Sequence[str]) -> tuple[int, str, str]:
        # Apart from the terminal, whose Ctrl-C would come twice; it ends, in order, when this process is gone.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.run", *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # With warnings: TensorFlow's says that memory was out, where what follows is a crash.
            env={"TF_CPP_MIN_LOG_LEVEL": "1", **os.environ, SWEEP_PID: str(os.getpid())},
            start_new_session=True,
        )
        if self._stopped is not None:  # while there was nobody to tell
            self._process.send_signal(self._stopped)
        stdout, stderr = self._process.communicate()
        code, self._process = self._process.returncode, None
        return code, stdout, stderr


def _code_of(signum: int) -> int:
    """The exit code of a search that a signal ended, as that of a run; SIGUSR1 says that a job's time limit is near."""
    return ExitCode.TIMEOUT if signum == signal.SIGUSR1 else 128 + signum


def words(config: RunConfig, batch: int, timeout_s: float) -> list[str]:
    """The command line of one trial: what was asked for, with that batch and few steps."""
    experiment = config.output.experiment
    default = RunConfig().output.experiment
    changed = {
        **_SHORT,
        "find_max_batch": False,
        "max_batch_size": None,
        "batch_size": batch,
        "timeout": timeout_s,
        "experiment": TRIAL_EXPERIMENT if experiment == default else experiment,
        "trial": True,
        "json": True,
    }
    found: list[str] = []
    for group in config.groups():
        for field in dataclasses.fields(group):
            value = changed.get(field.name, getattr(group, field.name))
            if value is not None and value != field.default:
                found += words_of(field.name, value)
    return found


def _figures(stdout: str) -> dict[str, Any]:
    """The machine-readable line of a run; empty where it printed none."""
    last = stdout.rstrip().rpartition("\n")[2]
    try:
        found = json.loads(last)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
