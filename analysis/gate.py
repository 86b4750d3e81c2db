"""The gate: every configuration of a baseline against a candidate, in every metric that was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.configurations import Configuration
from analysis.errors import AnalysisError
from analysis.files import Skipped
from analysis.load import trials_left_out
from analysis.metrics import EFFICIENCY, TIME_TO_ACCURACY, Metric, metric_named, why_none
from analysis.provenance import changes, told
from analysis.samples import Samples, samples
from analysis.scaling import BASE_STRATEGY
from analysis.sides import Pairs, Sides, crossed, matched, other_load, timed_otherwise
from analysis.stats import Interval
from analysis.text import some
from analysis.verdicts import Verdict, judge
from results.exit_codes import ExitCode

_SHOWN = 10
"""Names in a note."""

_OTHERWISE = "TrainScale times something else than it did in the baseline: measure the baseline anew"

_ALARMS = (Verdict.REGRESSED, Verdict.MISSING)


@dataclass(frozen=True)
class Line:
    """What the gate says of one metric of one configuration."""

    configuration: Configuration
    """Of the baseline."""
    metric: Metric
    verdict: Verdict
    baseline: Interval | None
    candidate: Interval | None
    change: Interval | None
    """candidate / baseline; None where one of them is missing, or where they were timed otherwise."""
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
    skipped: Sequence[Skipped]
    """Files that could not be read."""

    def count(self, verdict: Verdict) -> int:
        """Lines with a verdict."""
        return sum(line.verdict is verdict for line in self.lines)

    @property
    def exit_code(self) -> int:
        """1 when something regressed or is missing, 5 when something is inconclusive, else 0. A gate that could not
        read all of it has not seen that nothing is wrong."""
        if any(line.verdict in _ALARMS for line in self.lines):
            return ExitCode.REGRESSION
        return ExitCode.INCONCLUSIVE if self.count(Verdict.INCONCLUSIVE) or self.skipped else ExitCode.OK


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
        if other is None or not other.run_ids:
            why = "it did not run" if other is None else f"it failed: {other.failures[-1]}"
            known = self.ours[one.key].value() if one.key in self.ours else None
            return Line(one, self.metric, Verdict.MISSING, known, None, None, why)
        ours = self.ours[one.key]
        if other.key not in self.theirs:
            why = f"the candidate has no {self.metric.name}{why_none(self.metric)}"
            return Line(one, self.metric, Verdict.INCONCLUSIVE, ours.value(), None, None, why)
        theirs = self.theirs[other.key]
        if timed_otherwise(one, other):
            return Line(one, self.metric, Verdict.INCONCLUSIVE, ours.value(), theirs.value(), None, _OTHERWISE)
        found = judge(self.metric, ours, theirs, threshold, comparisons)
        short = _short(self.metric, one, other)
        verdict = Verdict.INCONCLUSIVE if short and found.verdict is not Verdict.REGRESSED else found.verdict
        runs = len(other.run_ids) + len(other.failures)
        failed = f"{len(other.failures)} of its {runs} runs failed: {other.failures[-1]}" if other.failures else ""
        note = "; ".join(filter(None, (found.advice, short, failed)))
        return Line(one, self.metric, verdict, ours.value(), theirs.value(), found.change, note)


def gate(loaded: Sides, names: Sequence[str], threshold: float, across: Sequence[str] = ()) -> Gate:
    """Judges the second side against the first, the baseline.

    Raises AnalysisError for sides that cannot be compared, and for a metric that no run of the baseline has.
    """
    baseline, candidate = loaded.sides
    pairs = matched(baseline, candidate, across)
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
            raise AnalysisError(f"no run of {baseline.name!r} has {question.metric.name}{why_none(question.metric)}")
    asked = [
        (question, one, other)
        for one, other in pairs
        for question in questions
        if one.run_ids and (one.key in question.ours or other is None or not other.run_ids)
    ]
    comparisons = sum(
        other is not None
        and one.key in question.ours
        and other.key in question.theirs
        and not timed_otherwise(one, other)
        for question, one, other in asked
    )
    return Gate(
        baseline=baseline.name,
        candidate=candidate.name,
        threshold=threshold,
        lines=[question.line(one, other, threshold, comparisons) for question, one, other in asked],
        notes=[*_notes(loaded, pairs, across, comparisons), *_unjudged(questions, pairs)],
        skipped=loaded.skipped,
    )


def _short(metric: Metric, one: Configuration, other: Configuration) -> str:
    """Says that a smaller share of the candidate's runs than of the baseline's reached the accuracy; else empty. Their
    times are not among the samples, which would then show its best runs alone."""
    if metric.name != TIME_TO_ACCURACY:
        return ""
    (ours, of_ours), (theirs, of_theirs) = (
        (len(each.samples[metric.name]), len(each.run_ids)) for each in (one, other)
    )
    if theirs * of_ours >= ours * of_theirs:
        return ""
    target = one.setup["target_accuracy"]
    return f"{theirs} of {of_theirs} runs reached the accuracy {target}, in the baseline {ours} of {of_ours}"


def _notes(loaded: Sides, pairs: Pairs, across: Sequence[str], comparisons: int) -> Iterable[str]:
    baseline, candidate = loaded.sides
    differ = [
        told(changes(baseline.machines, candidate.machines)),
        crossed(pairs, across),
        other_load(baseline, candidate),
    ]
    yield (
        f"changed between them: {'; '.join(filter(None, differ))}"
        if any(differ)
        else "nothing that is recorded changed between them"
    )
    yield (
        f"values: geometric means over runs; change: candidate / baseline, all {comparisons} intervals hold together "
        "with 95%; ok: with 95% this one alone lost less than the threshold"
    )
    met = {other.key for _, other in pairs if other}
    new = [one.title for one in candidate.configurations if one.key not in met]
    if new:
        yield f"not in the baseline, not judged: {some(new, _SHOWN, '; ')}"
    void = [one.title for one, _ in pairs if not one.run_ids]
    if void:
        yield f"without a good run in the baseline, not judged: {some(void, _SHOWN, '; ')}"
    if loaded.trials:
        yield trials_left_out(loaded.trials)
    if loaded.skipped:
        yield f"files that could not be read: {some([str(skipped) for skipped in loaded.skipped], _SHOWN, '; ')}"


def _unjudged(questions: Sequence[_Question], pairs: Pairs) -> Iterable[str]:
    """What has no figure in the baseline; the base case has no efficiency of its own and is not told of."""
    for question in questions:
        metric = question.metric
        lacking = [one for one, other in pairs if one.run_ids and other and one.key not in question.ours]
        names = [one.title for one in lacking if metric.name != EFFICIENCY or one.setup["strategy"] != BASE_STRATEGY]
        if names:
            yield f"without {metric.name} in the baseline, not judged{why_none(metric)}: {some(names, _SHOWN, '; ')}"
