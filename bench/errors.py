"""What a user can be told, and what the command then exits with.

Every `BenchError` is one line: what was given, what is allowed, what to do next. A traceback means our own mistake.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from results.exit_codes import ExitCode
from results.third_party import problem

_WHERE = ("Graph execution error", "Detected at node", "<stack traces unavailable>")
"""What lines of TensorFlow's errors begin with that say where something happened, and not what."""

_LONG = 500
"""Letters of an error that is one line."""


class BenchError(Exception):
    """Base of all errors that a user can cause and mend."""

    exit_code = ExitCode.WORKLOAD


class UsageError(BenchError):
    """A flag, a file or a variable asks for what cannot be done."""

    exit_code = ExitCode.USAGE


class EnvironmentFault(BenchError):
    """This machine, its libraries or its network lack what the run needs."""

    exit_code = ExitCode.ENVIRONMENT


class WorkloadError(BenchError):
    """The training itself went wrong: a loss that is no number, replicas that differ."""

    exit_code = ExitCode.WORKLOAD


@contextmanager
def naming_failed_imports() -> Iterator[None]:
    """Raises EnvironmentFault where a package of others cannot be imported, whatever it raises."""
    try:
        yield
    except Exception as error:
        if line := problem(error):
            raise EnvironmentFault(line) from error
        raise


def unknown_name(what: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in a table: lists the table and suggests the nearest."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UsageError(f"unknown {what} {name!r}.{hint} Valid: {', '.join(known)}")


def gist(message: str) -> str:
    """The line of a framework's error that says what happened: it may begin with where, and end with advice."""
    lines = [line for line in message.splitlines() if line.strip() and not line.startswith((*_WHERE, " ", "\t"))]
    return lines[0].strip() if lines else " ".join(message.split())[:_LONG]
