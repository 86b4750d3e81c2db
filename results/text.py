"""Words that may be anything, made fit to be shown."""

from __future__ import annotations


def printable(text: object) -> str:
    """On one line and without control characters: no word moves a terminal's cursor or turns its direction."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))
