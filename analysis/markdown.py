"""Markdown for the summary of a CI job or a merge request, and where a CI service wants it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from results.text import printable


def rows(headings: Sequence[str], cells: Iterable[Sequence[str]], words: int) -> Iterator[str]:
    """The lines of a table, whose first `words` columns hold words and stand left."""
    yield _row(headings)
    yield _row("---" if column < words else "---:" for column in range(len(headings)))
    yield from map(_row, (map(inert, row) for row in cells))


def points(said: Sequence[str]) -> list[str]:
    """The lines of a list."""
    return [*(f"- {inert(line)}" for line in said), ""] if said else []


def inert(text: object) -> str:
    """For a line or a cell: no word of a store is markup, and none a link or calls a person."""
    escaped = re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", printable(text))
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # GitHub makes links of bare addresses, and names of what follows an @, even where these signs are entities: only
    # what stands between them helps, here a space of no width.
    return re.sub(r"(?<=@)|(?<=:)(?=//)|(?<=www)(?=\.)", "&#8203;", escaped, flags=re.IGNORECASE)


def publish(text: str) -> None:
    """Prints it, and appends it to the file that $GITHUB_STEP_SUMMARY names, as a step of GitHub's CI does."""
    print(text, end="")
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
