"""The fault matrix: every case with real processes, and its outcome as docs/faults.md has it. `make faults` writes the
table anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.benchmark import MAY_MOUNT, ROOT, SEVERAL_S
from tests.faults.cases import BOUND_S, HASTY, Case, cases
from tests.faults.run import GONE_S, NOTHING, Outcome, perform
from tests.forks import ForkServer

pytestmark = [pytest.mark.processes, pytest.mark.timeout(SEVERAL_S)]

CASES = list(cases())
ROOTS = pytest.mark.skipif(not MAY_MOUNT, reason="only root may mount a file system")
TABLE = ROOT / "docs" / "faults.md"
BEGIN, END = "<!-- the matrix -->\n", "<!-- end of the matrix -->\n"
HEAD = "| fault | strategy, who is hit | status | exit | rank and phase named | recorded |"
WRITE = "WRITE_FAULTS"
performed: list[str] = []
"""The rows of the cases that were performed in this process."""


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=[ROOTS] if case.mounts else []) for case in CASES]
)
def test_a_fault(case: Case, tmp_path: Path, fork_server: ForkServer) -> None:
    seen = perform(case, tmp_path / "case", fork_server)
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
    performed.append(row(case, seen))
    if WRITE not in os.environ:
        assert performed[-1] in TABLE.read_text().splitlines()


def test_the_table_has_a_row_per_case() -> None:
    before, _, rest = TABLE.read_text().partition(BEGIN)
    table, _, after = rest.partition(END)
    if WRITE in os.environ:
        assert len(performed) == len(CASES)
        table = "\n".join([HEAD, "|---" * HEAD.count(" | ") + "|---|", *performed, ""])
        TABLE.write_text(before + BEGIN + table + END + after)
    first_cells = [tuple(line.split(" | ")[:2]) for line in table.splitlines()[2:]]
    assert first_cells == [(f"| {case.fault}", case.strategy) for case in CASES]


def row(case: Case, seen: Outcome) -> str:
    """A line of the table."""
    code = "killed" if seen.exit_code < 0 else str(seen.exit_code)
    who = (
        "" if seen.failed_rank is None else f"{seen.failed_rank}{f', {seen.failed_phase}' if seen.failed_phase else ''}"
    )
    recorded = "`results.check --recover`" if seen.recovered else "" if seen.status == NOTHING else "at once"
    return f"| {case.fault} | {case.strategy} | {seen.status} | {code} | {who} | {recorded} |"
