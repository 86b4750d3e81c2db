"""The report in short, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis import labels, table
from analysis.content import Content
from analysis.markdown import inert, points, rows

MOST_ROWS = 200
"""Of the table: GitHub refuses summaries of more than 1 MiB."""


def markdown(content: Content, title: str, written: Sequence[str]) -> str:
    """Sentences, warnings, the table; `written` are the files that say more."""
    return "\n".join(
        [
            f"## TrainScale: {inert(title)}",
            "",
            f"{inert(content.counts)}.",
            "",
            *points(content.sentences),
            *(["### Warnings", "", *points(content.warnings)] if content.warnings else []),
            *points([f"skipped {skipped}" for skipped in content.results.skipped]),
            *_tables(content),
            *points(content.notes),
            *points(written),
            "",
        ]
    )


def _tables(content: Content) -> Iterator[str]:
    shown = content.standings[:MOST_ROWS]
    for workload, group in labels.workloads(shown):
        yield from (f"### {inert(workload)}", "")
        headings = table.headings(group)
        found = (table.cells(one, content.series[one.configuration.key], headings) for one in group)
        yield from rows(headings[1:], ([text for text, _ in cells[1:]] for cells in found), table.TEXT_COLUMNS - 1)
        yield ""
    if len(content.standings) > len(shown):
        yield from (f"and {len(content.standings) - len(shown)} more configurations", "")
