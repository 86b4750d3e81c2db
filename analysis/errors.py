"""What can be wrong with a question or with a store, each one line with the remedy, and the exit code it means."""

from __future__ import annotations

from results.command_line import Refused
from results.exit_codes import ExitCode


class AnalysisError(Refused):
    """The store holds no answer to the question."""

    exit_code = ExitCode.USAGE


class DamagedStore(AnalysisError):
    """What was asked for may have been in files that cannot be read."""

    exit_code = ExitCode.ENVIRONMENT


class NewerSchema(AnalysisError):
    """The rows were written by a TrainScale that knows more than this one."""

    exit_code = ExitCode.ENVIRONMENT
