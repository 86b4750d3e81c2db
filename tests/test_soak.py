"""What the soak calls a leak."""

from __future__ import annotations

import pytest

from results.exit_codes import ExitCode
from tests.perf.soak import Look, judge

RUNS = 40
BEFORE = {"files": {"foreign"}}


def looks(
    *, growth: float = 0, noise: float = 0, jump: float = 0, open_files: int = 3, leak_at: int | None = None
) -> list[Look]:
    """After each run; `growth` is that of memory in 100 runs [MiB]. Every run has a file of its own while it lives."""
    return [
        Look(
            {"jobs.sweep": 20 + growth * run / 100 + noise * (7 * run % 5) + jump * (run == RUNS - 1)},
            {"jobs.sweep": 3 if run < RUNS / 2 else open_files},
            {"files": {"foreign", f"own-{run}", f"own-{run + 1}"} | ({"leak"} if run == leak_at else set())},
        )
        for run in range(RUNS)
    ]


def leaking() -> list[Look]:
    return [*looks()[:30], *(Look({"jobs.sweep": 20}, {"jobs.sweep": 3}, {"files": {"leak"}}) for _ in range(10))]


@pytest.mark.parametrize(
    ("found", "after", "code", "said"),
    [
        (looks(), {"foreign"}, ExitCode.OK, "nothing stayed behind"),
        (looks(growth=0.9), set(), ExitCode.OK, "nothing stayed behind"),
        (looks(growth=1.5), set(), ExitCode.REGRESSION, "memory of jobs.sweep grows by 1.50 MiB in 100 runs"),
        (looks(growth=0.9, noise=0.1), set(), ExitCode.INCONCLUSIVE, "give it more --minutes"),
        (looks(jump=2), set(), ExitCode.INCONCLUSIVE, "give it more --minutes"),
        (looks()[:13], set(), ExitCode.OK, "nothing stayed behind"),
        (looks()[:12], set(), ExitCode.INCONCLUSIVE, "too few runs"),
        (looks(open_files=4), set(), ExitCode.REGRESSION, "jobs.sweep has 1 more open files at the end"),
        (looks(leak_at=20), set(), ExitCode.OK, "nothing stayed behind"),
        (leaking(), set(), ExitCode.REGRESSION, "left behind, files: leak"),
        (looks(), {"own-40"}, ExitCode.REGRESSION, "left behind, files: own-40"),
    ],
)
def test_what_grows_or_stays_is_a_leak(
    capsys: pytest.CaptureFixture[str], found: list[Look], after: set[str], code: ExitCode, said: str
) -> None:
    assert judge(found, BEFORE, {"files": after}, []) == code
    assert said in capsys.readouterr().out


def test_a_failed_run_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert judge(looks(), BEFORE, {"files": set()}, ["3/70 single: lost"]) == ExitCode.REGRESSION
    assert "3/70 single: lost" in capsys.readouterr().out
