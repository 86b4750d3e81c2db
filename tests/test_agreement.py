from __future__ import annotations

from typing import Any

import pytest

from bench.agreement import compare
from bench.errors import EnvironmentFault, UsageError


def said(**fields: Any) -> dict[str, Any]:
    same = {"settings": "s", "versions": {"Keras": "3"}, "weights": None, "data": "d-v"}
    return {"hostname": "a", **same, "gpus": [], **fields}


def test_ranks_of_one_kind_pass() -> None:
    compare([said(gpus=["GPU-0"]), said(gpus=["GPU-1"]), said(hostname="b", gpus=["GPU-2", "GPU-3"])])


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        (
            {"hostname": "b", "versions": {"Keras": "4"}},
            EnvironmentFault,
            "rank 1 (b) has Keras 4 but rank 0 (a)",
        ),
        ({"hostname": "b", "settings": "t"}, UsageError, "rank 1 (b) was started with other settings or devices than"),
        (
            {"hostname": "b", "data": "e-v"},
            UsageError,
            "rank 1 (b) has other files of the data set than rank 0 (a): give",
        ),
        ({"gpus": ["GPU-0"]}, EnvironmentFault, "ranks 0 and 1 (a) would both train on GPU-0: give each task its own"),
    ],
)
def test_a_rank_that_does_not_belong_is_named(other: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        compare([said(gpus=["GPU-0"]), said(**other)])
    assert message in str(caught.value)
