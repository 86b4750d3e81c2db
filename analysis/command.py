"""What the commands of the analysis share: how they are parsed, how they say what is wrong, and what they exit with.

Light: `--help` and a mistyped flag are answered before pandas, DuckDB or plotly are loaded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from rich.console import Console

from analysis.errors import AnalysisError
from analysis.text import printable
from results.command_line import Refused, complain, parse
from results.exit_codes import ExitCode

T = TypeVar("T")


WIDTH = 140
"""Columns of a table in a log file: the 80 that are usual there would cut it."""


def perform(prog: str, options: type[T], argv: Sequence[str], work: Callable[[T], int]) -> int:
    """Parses the command line of `python -m PROG`, does the work and returns the exit code; every error is one line."""
    try:
        code = work(parse(options, f"python -m {prog}", argv))
        sys.stdout.flush()  # here a reader that has gone can be met
        return code
    except (Refused, AnalysisError) as error:
        return _complain(prog, str(error), error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has seen enough ('| head'); what is still buffered must not raise again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except OSError as error:
        where = f" {str(error.filename)!r}" if error.filename is not None else ""
        return _complain(prog, f"cannot read or write{where}: {error.strerror or error}", ExitCode.USAGE)
    except KeyboardInterrupt:
        return _complain(prog, "interrupted", ExitCode.SIGINT)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1


def console() -> Console:
    """Where tables are printed."""
    made = _Console()
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
        code = _complain(prog, f"skipped {each}", ExitCode.ENVIRONMENT)
    return code


def _complain(prog: str, text: str, code: int) -> int:
    complain(prog, text)
    return code
