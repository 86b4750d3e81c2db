"""What a report says, whatever it is written in: gathered once from the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis import diagnosis, findings, labels, provenance, table
from analysis.configurations import Configuration, configurations
from analysis.load import Results, trials_left_out
from analysis.scaling import Standing, standings
from analysis.text import some
from analysis.words import count
from results.text import printable

_VALUES = 5
"""Of a field that differs, as many are shown."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Runs that ended in the same way."""

    label: str
    status: str
    where: str
    error: str
    runs: int


@dataclass(frozen=True, kw_only=True)
class Content:
    """All that is said of some results; the plots are made from `workloads`."""

    results: Results
    standings: list[Standing]
    workloads: list[tuple[str, list[Standing]]]
    series: dict[str, str]
    """Configuration.key -> line of a plot."""
    sentences: list[str]
    warnings: list[str]
    notes: list[str]
    failures: list[Failure]
    machines: list[dict[str, Any]]
    differing: list[str]
    """What is not the same on all machines, a line each."""

    @property
    def num_failed(self) -> int:
        return sum(failure.runs for failure in self.failures)

    @property
    def counts(self) -> str:
        """One line: how many runs there are."""
        runs = f"{count(len(self.results.runs), 'run')} of {count(len(self.standings), 'configuration')}"
        return f"{runs}, {self.num_failed} failed" if self.failures else runs


def gather(results: Results, *, floor: float, link_gb_per_s: float | None) -> Content:
    """Reads, computes and words everything but the plots."""
    found = configurations(results.runs)
    standing = standings(found)
    machines = provenance.machines(results.runs["machine"])
    doubts = diagnosis.warnings(results, found)  # reads the telemetry, which may add to what is skipped
    return Content(
        results=results,
        standings=standing,
        workloads=labels.workloads(standing),
        series=labels.series(found),
        sentences=[printable(line) for line in findings.sentences(standing, floor)],
        warnings=[
            printable(line)
            for line in (
                *_skipped(results),
                *findings.warnings(standing, link_gb_per_s),
                *doubts,
                *_pooled(found),
            )
        ],
        notes=[printable(line) for line in (*table.notes(standing), trials_left_out(results.trials)) if line],
        failures=_failures(results),
        machines=machines,
        differing=_differing(machines),
    )


def _skipped(results: Results) -> list[str]:
    number = len(results.skipped)
    return (
        [
            f"{count(number, 'file')} of the store could not be read and {'is' if number == 1 else 'are'} missing "
            "from all figures (named below)."
        ]
        if number
        else []
    )


def _pooled(found: Sequence[Configuration]) -> list[str]:
    """What differs between runs that were pooled, which the schema allows: software's age and the host."""
    fields: Counter[str] = Counter()
    for one in found:
        known = [provenance.machine(text) for text in one.machines]
        names = {name for each in known for name in each} - {*provenance.NAMES}
        fields.update(name for name in names if len({str(each.get(name, "-")) for each in known if each}) > 1)
    told = ", ".join(f"{name} (in {number})" for name, number in fields.most_common())
    return [f"Runs of one configuration are pooled although they ran with different {told}."] if told else []


def _differing(machines: Sequence[dict[str, Any]]) -> list[str]:
    names = [name for name in dict.fromkeys(name for each in machines for name in each) if name != "runs"]
    lines = []
    for name in names:
        values = sorted({str(each.get(name, "unknown")) for each in machines})
        if len(values) > 1:
            lines.append(f"{name}: {printable(some(values, _VALUES))}")
    return lines


def _failures(results: Results) -> list[Failure]:
    """Most frequent first."""
    columns = ["label", "status", "failed_rank", "failed_phase", "error"]
    failed = results.runs.loc[results.runs["status"] != "ok", columns].astype(object)
    counted = Counter(failed.where(failed.notna(), None).itertuples(index=False, name=None))
    # The rank and phase of the first one: thousands of ranks that ended alike are one line.
    grouped: dict[tuple[str, str, str], list[Any]] = {}
    for (label, status, rank, phase, error), number in counted.items():
        held = grouped.setdefault((printable(label), printable(status), printable(error or "-")), [rank, phase, 0])
        held[2] += number
    failures = [
        Failure(label=label, status=status, where=_where(rank, phase), error=error, runs=number)
        for (label, status, error), (rank, phase, number) in grouped.items()
    ]
    return sorted(failures, key=lambda failure: -failure.runs)


def _where(rank: float | None, phase: str | None) -> str:
    who = "-" if rank is None else f"rank {rank:g}"
    return who if phase is None else f"{who} in {printable(phase)}"
