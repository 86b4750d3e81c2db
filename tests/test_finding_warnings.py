"""From runs with known rates to what makes a comparison of them doubtful."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.findings import warnings
from tests.test_findings import compared, runs


def test_runs_that_agree_are_not_warned_of(tmp_path: Path) -> None:
    runs(tmp_path, "single", 1, [1000, 1001, 1002])
    runs(tmp_path, "mwms", 2, [1900, 1901, 1902], gradient_bytes=10**6)
    assert warnings(compared(tmp_path), None) == []
    assert warnings(compared(tmp_path), 1.0) == []
    assert warnings([], 1.0) == []


@pytest.mark.parametrize("scaling", ["weak", "strong"])
def test_efficiency_over_one_is_impossible(tmp_path: Path, scaling: str) -> None:
    strong = {"scaling": "strong", "global_batch": 128} if scaling == "strong" else {}
    runs(tmp_path, "single", 1, [1000, 1001, 1002], **strong)
    runs(tmp_path, "mwms", 2, [2200, 2201, 2202], **strong)
    caches = " (only with a fixed global batch can it be true, where a smaller share fits the caches)" if strong else ""
    assert warnings(compared(tmp_path), None) == [
        "Efficiency is over 100% in 1 configuration (most: mwms x2 mnist_cnn, 109.9% (109.7% to 110.2%); base "
        "case: single x1, 1,001 images/s), which is impossible: the base case had fewer cores or a lower clock, or "
        f"too few runs; measure it again, in one sweep with the others{caches}."
    ]


def test_efficiency_over_one_within_the_noise_asks_for_runs(tmp_path: Path) -> None:
    runs(tmp_path, "single", 1, [2000])
    runs(tmp_path, "mwms", 2, [4200])
    noise, few = warnings(compared(tmp_path), None)
    assert noise == (
        "Efficiency is over 100% in 1 configuration (most: mwms x2 mnist_cnn, 105%; base case: single x1, 2,000 "
        "images/s), but not by more than noise can do: run both sides more often."
    )
    assert few == "One run of each configuration gives no interval at all: run at least 2 more of each."


def test_no_ring_outruns_its_link(tmp_path: Path) -> None:
    runs(tmp_path, "mwms", 2, [1280, 1280], gradient_bytes=5 * 10**8, num_nodes=2)
    (sentence,) = warnings(compared(tmp_path), 3.125)
    assert sentence == (
        "Gradients would need more than the 3.125 GB/s of the link in 1 configuration (most: mwms x2 mnist_cnn, 5 "
        "GB/s), which cannot be: they stayed within one host, were compressed, came from fewer layers than thought, "
        "or the link's rate is wrong; check these."
    )
    assert warnings(compared(tmp_path), 6.25) == []


def test_wide_spreads_and_how_many_runs_are_needed(tmp_path: Path) -> None:
    runs(tmp_path, "single", 1, [1000, 1150, 1300])
    runs(tmp_path, "mwms", 2, [1900, 1910, 1920])
    assert warnings(compared(tmp_path), None) == [
        "Runs of the same configuration differ by more than 10% (standard deviation) in 1 of 2 configurations "
        "(most: single x1 mnist_cnn, 13%): the machine was not quiet; repeat them with the machine to yourself.",
        "3 runs a configuration can show a change of 23% or more: runs differ by 9.3%, and to show 5%, run 27 more "
        "of each.",
    ]


def test_a_configuration_with_a_single_run_is_named_by_number(tmp_path: Path) -> None:
    runs(tmp_path, "single", 1, [1000, 1020, 1040])
    runs(tmp_path, "mwms", 2, [1900])
    assert warnings(compared(tmp_path), None) == [
        "1 of 2 configurations have a single run and so no interval: runs differ by 2.0%, and to show 5%, run 2 "
        "more of each."
    ]


def test_runs_that_differ_by_half_show_nothing_however_many(tmp_path: Path) -> None:
    runs(tmp_path, "single", 1, [1000, 4000])
    assert warnings(compared(tmp_path), None)[1] == (
        "2 runs a configuration can show a change of 6,688% or more: runs differ by 98.0%, and to show 5%, no "
        "number of runs does."
    )
