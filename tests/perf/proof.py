"""What `bench.verify` sees of faults of the training: `python -m tests.perf.proof`.

Injects each fault of `tests.faults.training` under each strategy that it is tried under, on two devices, compares with
`single` in float64 and in float32 as `bench.verify` does, and prints the table of docs/proof.md: two differences, and
whether the verdict is that the training failed, for the reason that it should. Exit 1 where float64 misses a fault.

`--brief` tries each fault under one strategy, in float64 alone.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from bench.preload import prepare
from bench.verify import REFERENCE, Case, Options, Precision, examine
from tests.faults.training import FAULTS, Fault

# This process is forked for every run, so NumPy, and all that imports it, is imported when its threads are tamed.
if TYPE_CHECKING:
    from bench.equivalence import Finding

DEVICES = 2
OPTIONS = Options(device="cpu")
HEAD = "| fault | strategy |"
COLUMNS = " {}: loss | weights | verdict |"


def examine_faulty(fault: Fault, case: Case, reference: Finding) -> Finding:
    """Compare a run under a fault, from a fork: a fault that was injected stays."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work(sender: Connection) -> None:
        fault.inject()
        sender.send(examine(case, OPTIONS, reference))

    process = context.Process(target=work, args=(sender,))
    process.start()
    sender.close()
    finding: Finding = receiver.recv()
    process.join()
    return finding


def findings(precisions: Sequence[Precision], *, brief: bool) -> Iterator[tuple[Fault, str, Mapping[str, Finding]]]:
    """Each fault, a strategy, and by precision what came out."""
    references = {precision: examine(Case(REFERENCE, 1, precision), OPTIONS, None) for precision in precisions}
    for fault in FAULTS:
        for strategy in fault.strategies[:1] if brief else fault.strategies:
            yield (
                fault,
                strategy,
                {
                    precision: examine_faulty(fault, Case(strategy, DEVICES, precision), references[precision])
                    for precision in precisions
                },
            )


def seen(fault: Fault, finding: Finding) -> bool:
    """Whether the verdict is that the training failed, for the fault's reason."""
    return finding.verdict == "failed" and fault.reason in str(finding.reason)


def main(argv: Sequence[str]) -> int:
    """Print the table and return the exit code."""
    brief = "--brief" in argv
    precisions: tuple[Precision, ...] = ("fp64",) if brief else ("fp64", "fp32")
    prepare()
    from bench.equivalence import DTYPES

    head = HEAD + "".join(COLUMNS.format(DTYPES[precision]) for precision in precisions)
    print(head, "|---" * (head.count("|") - 1) + "|", sep="\n", flush=True)
    missed = False
    for fault, strategy, by_precision in findings(precisions, brief=brief):
        cells = [fault.name, strategy]
        for finding in by_precision.values():
            loss, weights, _ = finding.cells()
            cells += [loss, weights, "seen" if seen(fault, finding) else "**not seen**"]
        missed |= not seen(fault, by_precision["fp64"])
        print(f"| {' | '.join(cells)} |", flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
