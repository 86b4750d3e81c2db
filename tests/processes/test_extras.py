"""Whatever is measured beside the training may break: the run stays what it was, and says what it could not measure."""

from __future__ import annotations

import pytest

from bench.extras import EXTRAS
from tests.benchmark import SEVERAL_S, Benchmark, null
from tests.faults import inside

pytestmark = [pytest.mark.processes, pytest.mark.timeout(SEVERAL_S)]

MANY_CARDS = "GPU samples"
"""Needs a GPU: an emulated driver breaks it in tests/test_telemetry.py."""
LEFT = {
    ("process samples", "error"): ("net_rx_bytes", "net_tx_bytes"),
    ("NVML", "error"): ("provenance.driver_version",),
    ("NVML", "hang"): ("provenance.driver_version",),
}
"""(extra, how it breaks) -> the columns that are null, where that is not all of them."""
WHY = {"error": "broken by a test", "hang": "0.5 s"}


def test_every_extra_is_broken_here() -> None:
    assert {*inside.EXTRAS, MANY_CARDS} == set(EXTRAS)


@pytest.mark.parametrize("how", WHY)
@pytest.mark.parametrize("name", inside.EXTRAS)
def test_an_extra_that_breaks_costs_no_run(benchmark: Benchmark, name: str, how: str) -> None:
    flags = ["--measure-peak"] if name == "peak FLOP/s" else []
    done = benchmark.run(*flags, patch=f"break_extra({name!r}, {how!r})")
    assert done.returncode == 0, done.stderr
    run = benchmark.only_run()
    assert run["status"] == "ok"
    assert (~benchmark.table("iters")["warmup"]).sum() == 3
    values = {
        **benchmark.table("ranks").iloc[0],
        **run,
        **{f"provenance.{field}": value for field, value in run["provenance"].items()},
    }
    if name == "process samples":
        telemetry = benchmark.table("telemetry")
        values |= {column: telemetry[column].dropna().max() for column in EXTRAS[name].columns}
    reasons = dict(run["null_reasons"])
    for column in LEFT.get((name, how), EXTRAS[name].columns):
        assert WHY[how] in reasons[column], column
        assert null(values[column]), column
