"""`python -m results.check`: is every file of a store what it says, and is any run lost on the way?

With `--recover` what a crash left is finished: the shards of runs that nobody answers for any more become rows, files
that were being written go away, and so do copies that an interrupted `results.compact` left. Nothing that holds the
only copy of a row is removed, and no run that is alive is touched.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, arg

from results.command_line import Refused, complain, perform
from results.exit_codes import ExitCode
from results.finding import Finding
from results.maintenance import alone
from results.text import printable

PROG = "results.check"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Verify every file of a store, and say which runs were cut off before their rows were written."""

    results_dir: Path = Path("results/data")
    """Where the tables are kept [path]."""
    recover: FlagCreatePairsOff[bool] = False
    """Write the rows of runs that were cut off, and remove what is left of writing."""
    older_than: Annotated[float, arg(metavar="HOURS")] = 24.0
    """A run of another machine counts as cut off when it has written nothing for so long [h]."""
    json: FlagCreatePairsOff[bool] = False
    """Print one machine-readable line last."""


@dataclass(frozen=True)
class Counts:
    """What was looked at."""

    runs: int
    files: int
    live: int


def check(root: Path, *, recover: bool, older_than_s: float) -> tuple[Counts, list[Finding]]:
    """Everything that is wrong with a store, and mended with `recover`. Raises StoreError where it cannot look."""
    from results import crash, verification

    with alone(root, changing=recover):
        left = crash.look(root, older_than_s)
        found = crash.mend(root, left) if recover else crash.tell(left)
        verified = verification.verify(root)
        return Counts(verified.runs, verified.files, len(left.live)), [*found, *verified.findings]


def _work(options: Options) -> int:
    if not options.older_than >= 0:  # nan is not
        raise Refused(f"--older-than {options.older_than:g}: give 0 or more hours")
    counts, found = check(options.results_dir, recover=options.recover, older_than_s=options.older_than * 3600)
    for each in found:
        if each.mended:
            print(printable(each))
        else:
            complain(PROG, str(each), ExitCode.ENVIRONMENT)
    wrong = sum(not each.mended for each in found)
    under_way = f", {counts.live} under way" if counts.live else ""
    verdict = f"{wrong} wrong" if wrong else "all sound"
    print(f"{counts.runs} runs in {counts.files} files{under_way}: {verdict}")
    if options.json:
        print(json.dumps({**asdict(counts), "findings": [asdict(each) for each in found]}))
    return ExitCode.ENVIRONMENT if wrong else ExitCode.OK


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 0 sound, 2 usage, 3 something is wrong and remains."""
    return perform(PROG, Options, argv, _work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
