"""What the commands of the analysis share: where they print, and how they name what they left out."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console

from results.command_line import complain
from results.exit_codes import ExitCode
from results.text import printable

WIDTH = 140
"""Columns of a table in a log file: the 80 that are usual there would cut it."""


def console() -> Console:
    """Where tables are printed."""
    made = Console()
    if not made.is_terminal:
        made.width = WIDTH
    return made


def say(line: str) -> None:
    """Prints a line in which words of a store may stand."""
    print(printable(line))


def name_skipped(prog: str, skipped: Iterable[object]) -> int:
    """Names the files that were left out on standard error; the exit code that says whether there are any."""
    code: int = ExitCode.OK
    for each in skipped:
        code = complain(prog, f"skipped {each}", ExitCode.ENVIRONMENT)
    return code
