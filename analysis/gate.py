"""The gate: every configuration of a baseline against a candidate, in every metric that was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.configurations import Configuration
from analysis.errors import EXIT_INCONCLUSIVE, EXIT_OK, EXIT_REGRESSION, AnalysisError
from analysis.metrics import EFFICIENCY, Metric, metric_named
from analysis.provenance import changes, told
from analysis.samples import Samples, samples
from analysis.sides import Pairs, Side, matched
from analysis.stats import Interval
from analysis.verdicts import Verdict, judge

_ALARMS = (Verdict.REGRESSED, Verdict.MISSING)


@dataclass(frozen=True)
class Line:
    """What the gate says of one metric of one configuration."""

    configuration: Configuration
    """Of the baseline."""
    metric: Metric
    verdict: Verdict
    baseline: Interval
    candidate: Interval | None
    change: Interval | None
    """candidate / baseline; None where one of them is missing."""
    note: str
    """Why, or what to do."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """All lines, and what else a reader must know."""

    baseline: str
    candidate: str
    threshold: float
    lines: Sequence[Line]
    notes: Sequence[str]

    def count(self, verdict: Verdict) -> int:
        """Lines with a verdict."""
        return sum(line.verdict is verdict for line in self.lines)

    @property
    def exit_code(self) -> int:
        """1 when something regressed or is missing, 5 when something is inconclusive, else 0."""
        if any(line.verdict in _ALARMS for line in self.lines):
            return EXIT_REGRESSION
        return EXIT_INCONCLUSIVE if self.count(Verdict.INCONCLUSIVE) else EXIT_OK


@dataclass(frozen=True, kw_only=True)
class _Question:
    """One metric of all configurations."""

    metric: Metric
    ours: Mapping[str, Samples]
    """comparability_key -> samples, of the baseline."""
    theirs: Mapping[str, Samples]
    """The same of the candidate."""

    def line(self, one: Configuration, other: Configuration | None, threshold: float, comparisons: int) -> Line:
        """The answer for a configuration of the baseline and its like in the candidate."""
        ours = self.ours[one.key]
        if other is None or not other.run_ids:
            why = "it did not run" if other is None else f"it failed: {other.failures[-1]}"
            return Line(one, self.metric, Verdict.MISSING, ours.value(), None, None, why)
        if other.key not in self.theirs:
            why = f"the candidate has no {self.metric.name}{_why_none(self.metric)}"
            return Line(one, self.metric, Verdict.INCONCLUSIVE, ours.value(), None, None, why)
        theirs = self.theirs[other.key]
        found = judge(self.metric, ours, theirs, threshold, comparisons)
        failed = f"{len(other.failures)} runs failed besides: {other.failures[-1]}" if other.failures else ""
        note = "; ".join(filter(None, (found.advice, failed)))
        return Line(one, self.metric, found.verdict, ours.value(), theirs.value(), found.change, note)


def gate(baseline: Side, candidate: Side, names: Sequence[str], threshold: float, across: Sequence[str] = ()) -> Gate:
    """Judges `candidate` against `baseline`. Raises AnalysisError for sides that cannot be compared, and for a metric
    that no run of the baseline has."""
    pairs = [(one, other) for one, other in matched(baseline, candidate, across) if one.run_ids]
    questions = [
        _Question(
            metric=metric,
            ours=samples(baseline.configurations, metric),
            theirs=samples(candidate.configurations, metric),
        )
        for metric in (metric_named(name) for name in names)
    ]
    for question in questions:
        if not question.ours:
            raise AnalysisError(f"no run of {baseline.name!r} has {question.metric.name}{_why_none(question.metric)}")
    asked = [(question, one, other) for one, other in pairs for question in questions if one.key in question.ours]
    comparisons = sum(other is not None and other.key in question.theirs for question, _, other in asked)
    return Gate(
        baseline=baseline.name,
        candidate=candidate.name,
        threshold=threshold,
        lines=[question.line(one, other, threshold, comparisons) for question, one, other in asked],
        notes=[*_notes(baseline, candidate, pairs, comparisons)],
    )


def _notes(
    baseline: Side,
    candidate: Side,
    pairs: Pairs,
    comparisons: int,
) -> Iterable[str]:
    changed = changes(baseline.runs["machine"], candidate.runs["machine"])
    yield f"changed between them: {told(changed)}" if changed else "nothing that is recorded changed between them"
    yield (
        "values: geometric means over runs; change: candidate / baseline, whose intervals hold together, all "
        f"{comparisons} of them, with 95%; ok: with 95% this one alone lost less than the threshold"
    )
    met = {other.key for _, other in pairs if other}
    new = [one.title for one in candidate.configurations if one.key not in met]
    if new:
        yield f"not in the baseline, not judged: {'; '.join(new[:10])}" + (" ..." if len(new) > 10 else "")  # noqa: PLR2004
    void = [one.title for one in baseline.configurations if not one.run_ids]
    if void:
        yield f"without a good run in the baseline, not judged: {'; '.join(void)}"


def _why_none(metric: Metric) -> str:
    return ": measure the base case, strategy single, as well" if metric.name == EFFICIENCY else ""
