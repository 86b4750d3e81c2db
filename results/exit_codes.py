"""What every command exits with."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """0 fine, 1 regression, 2 usage, 3 environment, 4 workload, 5 inconclusive, 124 timeout, 129 to 143 interrupted."""

    OK = 0
    REGRESSION = 1
    USAGE = 2
    ENVIRONMENT = 3
    WORKLOAD = 4
    INCONCLUSIVE = 5
    TIMEOUT = 124
    SIGHUP = 129
    SIGINT = 130
    SIGTERM = 143
