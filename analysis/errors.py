"""What can be wrong with a question or with a store, each one line with the remedy, and the exit code it means."""

from __future__ import annotations

EXIT_OK, EXIT_REGRESSION, EXIT_USAGE, EXIT_ENVIRONMENT, EXIT_INCONCLUSIVE = 0, 1, 2, 3, 5


class AnalysisError(Exception):
    """The store holds no answer to the question."""

    exit_code = EXIT_USAGE


class DamagedStore(AnalysisError):
    """What was asked for may have been in files that cannot be read."""

    exit_code = EXIT_ENVIRONMENT


class NewerSchema(AnalysisError):
    """The rows were written by a TrainScale that knows more than this one."""

    exit_code = EXIT_ENVIRONMENT
