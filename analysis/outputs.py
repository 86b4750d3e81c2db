"""What the gate says, for people, for scripts (JSON), for test reports (JUnit XML) and for pull requests (Markdown)."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from analysis.gate import Gate, Line
from analysis.markdown import points, rows
from analysis.stats import Interval
from analysis.verdicts import Verdict
from analysis.words import count
from results.text import printable

_STYLES = {
    Verdict.OK: "green",
    Verdict.IMPROVED: "bold green",
    Verdict.REGRESSED: "bold red",
    Verdict.MISSING: "bold red",
    Verdict.INCONCLUSIVE: "yellow",
}
_ORDER = [Verdict.REGRESSED, Verdict.MISSING, Verdict.INCONCLUSIVE, Verdict.IMPROVED, Verdict.OK]
_NUMBERS = ("baseline", "candidate", "change", "interval")
HEADINGS = ("verdict", "metric", "configuration", "baseline", "candidate", "change", "interval", "runs", "note")


def cells(line: Line) -> tuple[str, ...]:
    """A line as text, in the order of HEADINGS."""
    change = line.change
    return (
        line.verdict.value,
        line.metric.name,
        printable(line.configuration.title),
        line.metric.text(line.baseline.value) if line.baseline else "-",
        line.metric.text(line.candidate.value) if line.candidate else "-",
        f"{change.value - 1:+.1%}" if change else "-",
        f"{change.low - 1:+.1%} to {change.high - 1:+.1%}" if change and change.low and change.high else "-",
        f"{line.baseline.runs if line.baseline else 0}/{line.candidate.runs if line.candidate else 0}",
        printable(line.note),
    )


def table(gate: Gate) -> Table:
    """The lines, alarms first, for a terminal."""
    title = escape(printable(f"{gate.candidate} against {gate.baseline}, threshold {gate.threshold:.3g}"))
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in HEADINGS[:-1]:
        made.add_column(heading, justify="right" if heading in _NUMBERS else "left")
    for line in in_order(gate):
        verdict, *rest, _ = cells(line)
        made.add_row(f"[{_STYLES[line.verdict]}]{verdict}[/]", *map(escape, rest))
    return made


def notes(gate: Gate) -> list[str]:
    """What a reader must know besides the table."""
    said = [line for line in in_order(gate) if line.note]
    about = [f"{one.verdict.value}, {one.metric.name} of {one.configuration.title}: {one.note}" for one in said]
    return [printable(note) for note in (*about, *gate.notes)]


def in_order(gate: Gate) -> list[Line]:
    """The lines, alarms first."""
    return sorted(gate.lines, key=lambda line: _ORDER.index(line.verdict))


def summary(gate: Gate) -> str:
    """One line."""
    counts = ", ".join(f"{gate.count(verdict)} {verdict.value}" for verdict in _ORDER if gate.count(verdict))
    skipped = f"; {count(len(gate.skipped), 'file')} could not be read" if gate.skipped else ""
    return f"{count(len(gate.lines), 'comparison')}: {counts}{skipped}"


def json_text(gate: Gate) -> str:
    """All of it; shares are fractions, null where there is none."""
    held = {
        "baseline": gate.baseline,
        "candidate": gate.candidate,
        "threshold": gate.threshold,
        "exit_code": gate.exit_code,
        "notes": list(gate.notes),
        "skipped": [str(skipped) for skipped in gate.skipped],
        "verdicts": [_fields(line) for line in in_order(gate)],
    }
    return json.dumps(held, indent=1) + "\n"


def junit_text(gate: Gate) -> str:
    """A test case per line: a failure if it regressed or is missing, an error if it is inconclusive. Unreadable files
    are one more error, so a suite without failures and errors stands for exit code 0 alone."""
    suite = ET.Element(
        "testsuite",
        name=printable(f"{gate.candidate} against {gate.baseline}"),
        tests=str(len(gate.lines) + bool(gate.skipped)),
        failures=str(gate.count(Verdict.REGRESSED) + gate.count(Verdict.MISSING)),
        skipped="0",
        errors=str(gate.count(Verdict.INCONCLUSIVE) + bool(gate.skipped)),
    )
    for line in in_order(gate):
        case = ET.SubElement(suite, "testcase", classname=line.metric.name, name=printable(line.configuration.title))
        said = " ".join(f"{name}: {text};" for name, text in zip(HEADINGS, cells(line), strict=True))
        if line.verdict in (Verdict.REGRESSED, Verdict.MISSING):
            ET.SubElement(case, "failure", type=line.verdict.value, message=said)
        elif line.verdict is Verdict.INCONCLUSIVE:
            ET.SubElement(case, "error", type=line.verdict.value, message=said)
    if gate.skipped:
        case = ET.SubElement(suite, "testcase", classname="store", name="every file can be read")
        unreadable = printable("; ".join(str(skipped) for skipped in gate.skipped))
        ET.SubElement(case, "error", type="unreadable", message=unreadable)
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def markdown_text(gate: Gate) -> str:
    """For a pull request or a job's summary."""
    lines = (
        f"### {summary(gate)}",
        "",
        *rows(HEADINGS, map(cells, in_order(gate)), len(HEADINGS)),
        "",
        *points(gate.notes),
    )
    return "\n".join(lines) + "\n"


def _fields(line: Line) -> dict[str, Any]:
    return {
        "verdict": line.verdict.value,
        "metric": line.metric.name,
        "configuration": line.configuration.title,
        "setup": dict(line.configuration.setup),
        "baseline": _interval(line.baseline),
        "candidate": _interval(line.candidate),
        "change": _interval(line.change),
        "note": line.note,
    }


def _interval(interval: Interval | None) -> dict[str, Any] | None:
    if interval is None:
        return None
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "level": interval.level,
        "runs": interval.runs,
    }
