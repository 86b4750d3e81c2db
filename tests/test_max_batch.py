from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from bench import max_batch
from bench.config import parse
from bench.errors import UsageError
from bench.max_batch import does_not_fit, find, search, words
from bench.supervise import _NO_MEMORY
from jobs.cluster import ClusterEnv


def tried(capacity: int, first: int = 64, most: int = 1 << 14) -> tuple[tuple[int | None, int | None], list[int]]:
    """What a search finds on a device that holds so many images, and the batches that it tried."""
    batches: list[int] = []

    def fits(batch: int) -> bool:
        batches.append(batch)
        return batch <= capacity

    return search(fits, first, most), batches


@pytest.mark.parametrize(
    ("capacity", "found", "batches"),
    [
        (64, (64, 72), [64, 128, 96, 80, 72]),
        (100, (96, 104), [64, 128, 96, 112, 104]),
        (127, (120, 128), [64, 128, 96, 112, 120]),
        (1000, (960, 1024), [64, 128, 256, 512, 1024, 768, 896, 960]),
        (40, (40, 44), [64, 32, 48, 40, 44]),
        (5, (5, 6), [64, 32, 16, 8, 4, 6, 5]),
        (1, (1, 2), [64, 32, 16, 8, 4, 2, 1]),
        (0, (None, 1), [64, 32, 16, 8, 4, 2, 1]),
    ],
)
def test_doubling_then_steps_of_an_eighth(capacity: int, found: tuple[int | None, int], batches: list[int]) -> None:
    assert tried(capacity) == (found, batches)


@pytest.mark.parametrize(
    ("capacity", "first", "most", "found", "batches"),
    [
        (10**9, 64, 300, (300, None), [64, 128, 256, 300]),
        (299, 64, 300, (288, 300), [64, 128, 256, 300, 288]),
        (10**9, 64, 64, (64, None), [64]),
        (10**9, 300, 64, (64, None), [64]),
        (10**9, 7, 28, (28, None), [7, 14, 28]),
    ],
)
def test_nothing_larger_than_the_bound_is_tried(
    capacity: int, first: int, most: int, found: tuple[int, int | None], batches: list[int]
) -> None:
    assert tried(capacity, first, most) == (found, batches)


def test_the_answer_is_within_an_eighth_and_no_batch_is_tried_twice() -> None:
    for capacity in range(1, 2000, 7):
        for first in (1, 5, 64, 333):
            (good, bad), batches = tried(capacity, first)
            assert good is not None
            assert bad is not None
            assert good <= capacity < bad <= good + max(1, good // 8) + 1
            assert len(batches) == len(set(batches))


@pytest.mark.parametrize(
    ("status", "error", "out_of_memory"),
    [
        ("oom", "ResourceExhaustedError: OOM when allocating", True),
        ("lost", "was killed by SIGKILL (the kernel does so when memory runs out)", True),
        ("lost", "was killed by SIGABRT; its last line: what():  std::bad_alloc", True),
        ("lost", "was killed by SIGSEGV; its last line: Allocator (mklcpu) ran out of memory trying to", True),
        ("lost", "was killed by SIGSEGV", False),
        ("failed", "loss is nan", False),
        ("timeout", "not finished", False),
        (None, None, False),
    ],
)
def test_what_counts_as_too_large(status: str | None, error: str | None, out_of_memory: bool) -> None:
    assert does_not_fit(status, error) is out_of_memory


def test_tensorflows_warning_is_known() -> None:
    said = b"W0000 0.1 7 bfc_allocator.cc:502] Allocator (mklcpu) ran out of memory trying to allocate 8.00MiB"
    found = _NO_MEMORY.search(said)
    assert found is not None
    assert does_not_fit("lost", f"was killed by SIGSEGV; its last line: {found[0].decode()}")
    # cuDNN looks for a faster algorithm with more scratch, and goes on without.
    assert not _NO_MEMORY.search(said + b" with freed_by_count=0. The caller indicates that this is not a failure, but")


def test_a_trial_is_what_was_asked_for_with_few_steps() -> None:
    asked = parse(
        ["--find-max-batch", "--batch-size=8", "--max-batch-size=99", "--model=cifar_cnn", "--label=-x", "--xla"]
    )
    trial = parse(words(asked, 24, 30.5))
    assert trial.workload.model == "cifar_cnn"
    assert (trial.workload.batch_size, trial.workload.find_max_batch, trial.workload.max_batch_size) == (
        24,
        False,
        None,
    )
    assert (trial.measure.num_warmup_batches, trial.measure.num_batches_per_iter, trial.measure.num_iters) == (2, 1, 1)
    assert (trial.machine.timeout, trial.output.experiment, trial.output.json) == (30.5, "find-max-batch", True)
    assert (trial.output.label, trial.numerics.xla) == ("-x", True)
    assert parse(words(parse(["--find-max-batch", "--experiment=mine"]), 1, 1.0)).output.experiment == "mine"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--find-max-batch", "--global-batch-size=8"], "--find-max-batch finds a batch per device"),
        (["--max-batch-size=8"], "--max-batch-size has no effect without --find-max-batch"),
        (["--find-max-batch", "--max-batch-size=0"], "--max-batch-size is 0"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-iters=3"], "--num-iters has no effect with --find-max-batch"),
        (["--sweep-task=t"], "--sweep-task does not go with --find-max-batch"),
        (["--evidence=e"], "--evidence does not go with --find-max-batch"),
        (["--epochs=2"], "--epochs does not go with --find-max-batch"),
        (["--save-model=m.keras"], "--save-model does not go with --find-max-batch"),
        (["--dry-run"], "--dry-run does not go with --find-max-batch"),
        (["--batch-size=9", "--max-batch-size=8"], "--batch-size 9 is more than --max-batch-size 8"),
    ],
)
def test_what_a_search_cannot_do_is_refused(flags: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find(parse(["--find-max-batch", *flags]), None)


def test_one_of_several_processes_is_refused() -> None:
    with pytest.raises(UsageError, match="one run after another"):
        find(parse(["--find-max-batch"]), ClusterEnv.alone())


Perform = Callable[[Any, list[str]], tuple[int, str, str]]


@pytest.fixture
def performs(monkeypatch: pytest.MonkeyPatch) -> Callable[[Perform], None]:
    """Lets a function stand for the process of a trial."""
    return lambda perform: monkeypatch.setattr(max_batch._Trials, "_perform", perform)


def outcome(argv: list[str], *, capacity: int) -> tuple[int, str, str]:
    batch = parse(argv).workload.batch_size
    assert batch is not None
    ok = batch <= capacity
    figures = {
        "run_id": f"R{batch}",
        "batch_per_device": batch,
        "status": "ok" if ok else "oom",
        "error": None if ok else "OOM when allocating",
        "framework_peak_mem_bytes": batch << 20 if ok else None,
        "predicted_mem_bytes": batch << 20,
    }
    return (0 if ok else 4), f"Model: m\n{json.dumps(figures)}\n", ""


def test_the_table_and_the_answer(performs: Callable[[Perform], None], capsys: pytest.CaptureFixture[str]) -> None:
    performs(lambda _self, argv: outcome(argv, capacity=100))
    assert find(parse(["--find-max-batch", "--json"]), None) == 0
    *trials, answer, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in trials] == ["64", "128", "96", "112", "104"]
    assert ["does not fit" in line for line in trials] == [False, True, False, True, True]
    assert trials[0].endswith("0.06 GiB at the peak, 0.06 GiB predicted")
    assert answer == "Largest batch: 96 images a device (104 does not fit)"
    found = json.loads(last)
    assert (found["max_batch_per_device"], found["smallest_that_does_not_fit"], found["max_batch_size"]) == (
        96,
        104,
        16384,
    )
    assert [trial["run_id"] for trial in found["trials"]] == ["R64", "R128", "R96", "R112", "R104"]


def test_where_nothing_fits_the_exit_code_says_so(
    performs: Callable[[Perform], None], capsys: pytest.CaptureFixture[str]
) -> None:
    performs(lambda _self, argv: outcome(argv, capacity=0))
    assert find(parse(["--find-max-batch", "--batch-size=2"]), None) == 4
    assert capsys.readouterr().out.splitlines()[-1] == "Not even one image a device fits."


@pytest.mark.parametrize(("code", "exit_code"), [(3, 3), (124, 124), (143, 143), (-11, 139)])
def test_another_failure_ends_the_search_with_its_exit_code(
    performs: Callable[[Perform], None], capsys: pytest.CaptureFixture[str], code: int, exit_code: int
) -> None:
    performs(lambda _self, _argv: (code, '{"status": "failed", "error": "e"}', "bench.run: what went wrong\n"))
    assert find(parse(["--find-max-batch"]), None) == exit_code
    said = capsys.readouterr()
    assert said.err == "bench.run: what went wrong\n"
    assert said.out == ""


def test_a_search_that_ends_early_says_what_fitted(
    performs: Callable[[Perform], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def perform(_self: Any, argv: list[str]) -> tuple[int, str, str]:
        done = outcome(argv, capacity=100)
        return (2, "", "bench.run: has 24 images to train\n") if parse(argv).workload.batch_size == 32 else done

    performs(perform)
    assert find(parse(["--find-max-batch", "--batch-size=8", "--json"]), None) == 2
    said = capsys.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()] == ["8", "16"]
    assert said.err.splitlines() == [
        "bench.run: has 24 images to train",
        "bench.run: the search is not finished; the largest batch that fitted is 16 a device",
    ]


def test_the_timeout_bounds_the_whole_search(
    performs: Callable[[Perform], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    left: list[float] = []

    def perform(_self: Any, argv: list[str]) -> tuple[int, str, str]:
        nonlocal now
        now += 40
        left.append(parse(argv).machine.timeout)
        return outcome(argv, capacity=10**9)

    monkeypatch.setattr(max_batch.time, "monotonic", lambda: now)
    performs(perform)
    assert find(parse(["--find-max-batch", "--timeout=100"]), None) == 124
    assert left == [100, 60, 20]
    assert "not finished after 100 s (--timeout)" in capsys.readouterr().err


@pytest.mark.commands
def test_a_request_to_stop_goes_to_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import os, signal; os.kill(os.getppid(), signal.SIGTERM); signal.alarm(60); signal.pause()"
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda _words, **options: popen([sys.executable, "-c", program], **options)
    )
    before = signal.getsignal(signal.SIGTERM)
    assert find(parse(["--find-max-batch"]), None) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("signum", "exit_code"), [(signal.SIGUSR1, 124), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_request_to_stop_between_two_trials_ends_the_search_as_it_would_a_run(
    performs: Callable[[Perform], None], signum: signal.Signals, exit_code: int
) -> None:
    def perform(_self: Any, argv: list[str]) -> tuple[int, str, str]:
        os.kill(os.getpid(), signum)
        return outcome(argv, capacity=100)

    performs(perform)
    before = signal.signal(signum, signal.SIG_DFL)  # these tests may run under nohup themselves
    try:
        assert find(parse(["--find-max-batch"]), None) == exit_code
    finally:
        signal.signal(signum, before)


def test_a_trial_that_the_time_limits_signal_ends_before_it_hears_it_is_a_timeout(
    performs: Callable[[Perform], None],
) -> None:
    performs(lambda _self, _argv: (-signal.SIGUSR1, "", ""))
    assert find(parse(["--find-max-batch"]), None) == 124


@pytest.mark.commands
def test_under_nohup_a_hangup_stops_neither_search_nor_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import os, signal; os.kill(os.getppid(), signal.SIGHUP); os.kill(os.getpid(), signal.SIGHUP); exit(3)"
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda _words, **options: popen([sys.executable, "-c", program], **options)
    )
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert find(parse(["--find-max-batch"]), None) == 3
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
