"""What the coordinator of parameter servers refuses before it builds anything."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bench.config import parse
from bench.errors import UsageError
from bench.launch_plan import plan_launch
from bench.telemetry import Gpus


@pytest.mark.parametrize(("trained", "held_out"), [(2 << 30, 0), (0, 2 << 30)])
def test_images_that_no_graph_holds_are_refused(trained: int, held_out: int) -> None:
    strategy = plan_launch(parse(["--strategy=ps", "--device=cpu"]), None, Gpus({}), {}).plan.strategy
    work: Any = SimpleNamespace(data=SimpleNamespace(held_bytes=trained), held_out=SimpleNamespace(held_bytes=held_out))
    with pytest.raises(UsageError, match=r"take 2\.00 GiB, more than the 2 of a graph.*--dataset synthetic"):
        strategy.trainer(work)
