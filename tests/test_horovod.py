"""What Horovod is told, without Horovod."""

from __future__ import annotations

import pytest

from bench.errors import EnvironmentFault
from jobs.cluster import ClusterEnv, Task
from strategies.horovod import _gloo_settings


def test_a_host_that_is_not_known_is_named() -> None:
    tasks = (Task("worker", "nowhere.invalid:20000"), Task("worker", "localhost:20001"))
    with pytest.raises(EnvironmentFault, match=r"rank 0's host 'nowhere.invalid' is not known here .*/etc/hosts"):
        _gloo_settings(ClusterEnv.of_tasks("TF_CONFIG", 1, tasks), 1)
