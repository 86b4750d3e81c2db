"""The fault matrix: every case with real processes, and its outcome as docs/faults.md has it.

The cases run a few at a time, for most of each is waiting. `make faults` writes the table anew.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.benchmark import MAY_MOUNT, ROOT
from tests.faults.cases import BOUND_S, HASTY, Case, cases
from tests.faults.forks import ForkServer
from tests.faults.run import GONE_S, NOTHING, Outcome, perform

pytestmark = pytest.mark.processes

CASES = list(cases())
ROOTS = pytest.mark.skipif(not MAY_MOUNT, reason="only root may mount a file system")
AT_ONCE = 3
TABLE = ROOT / "docs" / "faults.md"
BEGIN, END = "<!-- the matrix -->\n", "<!-- end of the matrix -->\n"
HEAD = "| fault | strategy, who is hit | status | exit | rank and phase named | recorded |"
WRITE = "WRITE_FAULTS"


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[Outcome]]:
    """Name -> outcome, of the cases that were asked for. All have ended: no test may see the processes of another."""
    asked = [item.callspec.params["case"] for item in request.session.items if _is_case(item)]
    folder = tmp_path_factory.mktemp("faults")
    with ForkServer() as server, ThreadPoolExecutor(AT_ONCE) as pool:
        return {
            case.name: pool.submit(perform, case, folder / str(number), server) for number, case in enumerate(asked)
        }


def _is_case(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function) or item.function is not test_a_fault:
        return False
    return MAY_MOUNT or not item.callspec.params["case"].mounts


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=[ROOTS] if case.mounts else []) for case in CASES]
)
def test_a_fault(case: Case, outcomes: dict[str, Future[Outcome]]) -> None:
    seen = outcomes[case.name].result()
    print(seen.stderr)
    assert seen.left == {}
    if case.outside and set(HASTY) <= set(case.flags):  # the promise itself is a time
        assert seen.ended_after_s <= BOUND_S + GONE_S
    assert "Traceback" not in seen.stderr
    assert seen.sound
    assert seen.others_unchanged == case.clean
    if "--strategy=ps" not in case.flags:  # there one rank writes for all
        for rank in range(case.writers if case.kept else 0):
            kept = seen.iters[seen.iters["rank"] == rank]["iter"].tolist()
            assert kept == list(range(len(kept)))
            assert len(kept) >= max(case.kept, seen.before.get(rank, 0))
    assert len(seen.iters) >= max(case.kept, sum(seen.before.values()))
    if seen.status not in ("ok", NOTHING):
        assert seen.exit_code != 0
    if seen.failed_rank is not None and not seen.recovered:
        assert f"rank {seen.failed_rank} " in seen.stderr
    if WRITE not in os.environ:
        assert row(case, seen) in TABLE.read_text().splitlines()


@pytest.mark.timeout(1800)
def test_the_table_in_the_docs_is_what_came_of_it(outcomes: dict[str, Future[Outcome]]) -> None:
    if len(outcomes) < len(CASES):
        return  # somebody looks at some
    before, _, rest = TABLE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    rows = [row(case, outcomes[case.name].result()) for case in CASES]
    written = before + BEGIN + "\n".join([HEAD, "|---" * HEAD.count(" | ") + "|---|", *rows, ""]) + END + after
    if WRITE in os.environ:
        TABLE.write_text(written)
    assert TABLE.read_text() == written


def row(case: Case, seen: Outcome) -> str:
    """A line of the table."""
    code = "killed" if seen.exit_code < 0 else str(seen.exit_code)
    who = (
        "" if seen.failed_rank is None else f"{seen.failed_rank}{f', {seen.failed_phase}' if seen.failed_phase else ''}"
    )
    recorded = "`results.check --recover`" if seen.recovered else "" if seen.status == NOTHING else "at once"
    return f"| {case.fault} | {case.strategy} | {seen.status} | {code} | {who} | {recorded} |"
