"""What the plots of a report show."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis import labels
from analysis.drawing import charts, one_run, page, plots, telemetry
from tests.report_content import content_of, measured, plots_of
from tests.synthetic_store import add_run


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return measured(tmp_path / "data")


def test_the_plots_show_the_computed_values(store: Path) -> None:
    content = content_of(store)
    ((_, group),) = content.workloads
    found = plots.lines(group, content.series)
    traces = {trace["name"]: trace for trace in charts.throughput(found).data}
    single, mwms = (one.configuration.typical("images_per_s") for one in group)
    assert single is not None
    assert mwms is not None
    assert mwms.high is not None
    assert traces["ideal"]["y"] == pytest.approx([single.value, 2 * single.value], rel=1e-4)
    assert traces["mwms"]["x"] == [2]
    assert traces["mwms"]["y"] == pytest.approx([mwms.value], rel=1e-4)
    assert traces["mwms"]["error_y"]["array"] == pytest.approx([mwms.high - mwms.value], rel=1e-4)
    efficiency = {trace["name"]: trace for trace in charts.efficiency(found).data}
    assert efficiency["single"]["y"] == [1]
    assert efficiency["single"]["error_y"]["array"] == [None]
    parts = {trace["name"]: trace["y"] for trace in charts.breakdown(found).data}
    steps = [one.configuration.typical("step_time_p50_s") for one in group]
    for index, (step, compute) in enumerate(zip(steps, (0.7, 0.6 * (1 + 1 / 1.1) / 2), strict=True)):
        assert step is not None
        assert parts["compute"][index] == pytest.approx(step.value * compute * 1e3, rel=1e-3)
        assert parts["data wait"][index] == pytest.approx(step.value * 0.04e3, rel=1e-3)
        assert sum(values[index] for values in parts.values()) == pytest.approx(step.value * 1e3, rel=1e-3)
    box = charts.distributions(found, charts.quantiles(content.results, content.standings)).data[0]
    assert (box["x"], box["median"]) == (["single x1"], [110])
    assert box["lowerfence"] == pytest.approx([100], rel=0.01)


def test_what_is_null_is_left_out_with_a_reason(tmp_path: Path) -> None:
    reasons = {"gpu_mem_used_bytes": "the run used the CPU", "gpu_peak_mem_used_bytes": "the run used the CPU"}
    add_run(tmp_path, strategy="mirrored", num_devices=2, null_reasons=reasons, samples=5)
    text = page.render(content_of(tmp_path), "t")
    assert "Left out: GPU in use, all processes (the run used the CPU)." in text
    assert "Left out: GPU, GPU memory, GPU power, GPU clock (the run used the CPU)." in text
    assert "Left out, no run of the base case" in text
    assert "Not split: " in text
    specs = plots_of(text)
    names = {trace["name"] for spec in specs for trace in spec["data"]}
    assert {"not split", "data wait", "process, resident"} <= names
    assert not {"compute", "GPU in use, all processes"} & names


@pytest.mark.parametrize(
    ("compute", "synchronous", "own"), [(0.5, True, True), (None, True, False), (0.5, False, False)]
)
def test_the_heat_map_shows_what_each_rank_needed(
    tmp_path: Path, compute: float | None, synchronous: bool, own: bool
) -> None:
    run = {"strategy": "mwms", "num_processes": 2, "num_devices": 2, "synchronous": synchronous}
    shares = [compute, compute / 1.1] if compute else []
    add_run(tmp_path, [0.1, 0.2], compute_shares=shares, data_wait_share=0.1, hostnames=["a<", "b"], **run)
    content = content_of(tmp_path)
    shown = one_run.choose(content.results, content.workloads)
    (chosen,) = shown.values()
    plot = one_run.RankSteps(content.results).plot(chosen)
    (heat,) = plot.data
    assert (heat["x"], heat["y"]) == ([0, 1], ["rank 0 a&lt;", "rank 1 b"])
    whole = [[100, 200], [100, 200]]
    needed = [[60, 120], [0.5 / 1.1 * 100 + 10, 0.5 / 1.1 * 200 + 20]]
    for row, expected in zip(heat["z"], needed if own else whole, strict=True):
        assert row == pytest.approx(expected, rel=1e-3)
    assert ("by itself" in plot.notes[0]) == own
    assert chosen.run_id in plot.notes[0]


def test_many_ranks_and_iterations_are_binned(tmp_path: Path) -> None:
    ranks = one_run.MOST_RANKS + 6
    add_run(tmp_path, [0.1] * 130, strategy="mwms", num_processes=ranks, num_devices=ranks, samples=400)
    content = content_of(tmp_path)
    (chosen,) = one_run.choose(content.results, content.workloads).values()
    (heat,) = one_run.RankSteps(content.results).plot(chosen).data
    assert (len(heat["y"]), len(heat["x"])) == (one_run.MOST_RANKS, one_run.MOST_STEPS)
    assert {value for row in heat["z"] for value in row} == {100}
    assert "ranks 0-1" in heat["y"]


def test_telemetry_lies_over_the_phases(store: Path) -> None:
    content = content_of(store)
    (chosen,) = one_run.choose(content.results, content.workloads).values()
    plot = telemetry.plot(content.results, chosen)
    assert plot is not None
    bars = {trace["name"]: (trace["base"][0], trace["x"][0]) for trace in plot.data if trace["type"] == "bar"}
    assert [*bars] == [*telemetry.PHASES, "timed"]
    assert bars["import"] == (0, 2)
    assert bars["trace"] == (2.75, 4)
    assert bars["timed"][0] == 7.75
    lines = [trace for trace in plot.data if trace["type"] == "scatter"]
    assert [(trace["name"], trace["meta"]["quantity"]) for trace in lines] == [
        ("rank 0", "CPU (%)"),
        ("rank 1", "CPU (%)"),
        ("rank 0", "resident (GiB)"),
        ("rank 1", "resident (GiB)"),
    ]
    assert lines[0]["x0"] == pytest.approx(2)  # the first sample is taken when the frameworks are loaded
    assert len(lines[0]["y"]) == 20
    assert (lines[0]["y"][0], lines[0]["y"][-1]) == (0, 100)


def test_more_ranks_than_colours_become_least_median_and_most(tmp_path: Path) -> None:
    add_run(tmp_path, [1.0], strategy="mwms", num_processes=9, num_devices=9, samples=1000)
    content = content_of(tmp_path)
    (chosen,) = one_run.choose(content.results, content.workloads).values()
    plot = telemetry.plot(content.results, chosen)
    assert plot is not None
    cpu = {t["name"]: t["y"] for t in plot.data if t.get("meta", {}).get("quantity") == "CPU (%)"}
    assert [*cpu] == ["least", "median", "most"]
    assert len(cpu["most"]) <= telemetry.MOST_POINTS
    assert cpu["most"][0] - cpu["least"][0] == pytest.approx(8, abs=0.01)
    assert cpu["median"][0] - cpu["least"][0] == pytest.approx(4, abs=0.01)


def test_phases_of_a_forked_process_begin_after_its_import() -> None:
    row = {"import_s": None, "rendezvous_s": 1.0, "build_s": 2.0, "trace_s": 3.0, "warmup_s": 4.0, "timed_s": 5.0}
    begin_ns, found = telemetry.phases({**row, "timed_ns": 20 * 10**9, "end_ns": 25 * 10**9})
    assert begin_ns == 10 * 10**9
    assert [(phase.name, phase.start_s, phase.end_s) for phase in found] == [
        ("rendezvous", 0, 1),
        ("build", 1, 3),
        ("trace", 3, 6),
        ("warmup", 6, 10),
        ("timed", 10, 15),
    ]


def test_lines_that_would_hide_each_other_are_told_apart(tmp_path: Path) -> None:
    for nodes in (1, 2):
        add_run(tmp_path, strategy="mwms", num_devices=4, num_processes=4, num_nodes=nodes)
    add_run(tmp_path, strategy="mwms", num_devices=8, num_processes=8, num_nodes=2)
    found = [one.configuration for one in content_of(tmp_path).standings]
    assert sorted(labels.series(found).values()) == ["mwms, 2 a node", "mwms, 4 a node", "mwms, 4 a node"]
