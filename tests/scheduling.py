"""The order of tests that several processes of pytest perform: `pytest -n 2 -p tests.scheduling`.

The tests of a file stay together, where they may share what is costly: runs, models, a loaded framework. Those of
some files share nothing, and would keep one process busy when the other has nothing left to do.
"""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

_PROCESSES = ("faults", "endings", "extras", "exchange", "sweeps", "verify", "doctor_agrees")

ONE_BY_ONE = ("tests/slurm/", *(f"tests/processes/test_{name}.py" for name in _PROCESSES))
"""Files and folders whose tests share nothing."""


class Scheduling(LoadScopeScheduling):
    """Hands out files, the largest first, and then single tests of ONE_BY_ONE."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(ONE_BY_ONE) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Called by pytest-xdist."""
    return Scheduling(config, log)
