"""The report, whatever it is written in: what it shows, what it escapes, and how the command ends."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from analysis import labels, table
from analysis.content import Content, gather
from analysis.drawing import charts, one_run, page, plots, telemetry
from analysis.load import Results
from analysis.options import Selection
from analysis.report import main
from analysis.stats import typical
from tests.benchmark import ROOT
from tests.synthetic_store import add_run

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'><svg/onload=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "</style><b>",
    "<!--",
    "{{ 7 * 7 }} {% raw %} %{x}",
    '=HYPERLINK("http://example.invalid")',
    "[red]rich[/red] | pipe `code` \x1b[31m\x07\r\nline",
    "&lt;b&gt; \u202e \u2028 $x^2$",
]


def content_of(root: Path) -> Content:
    return gather(Results(Selection(results_dir=(str(root),))), floor=0.8, link_gb_per_s=None)


def command(root: Path, *words: str) -> int:
    return main([f"--results-dir={root}", *words])


def plots_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(spec) for spec in re.findall(r'<script type="application/json">(.*?)</script>', text, re.S)]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three runs of the base case, three of two workers, one that failed."""
    root = tmp_path / "data"
    for step in (0.1, 0.11, 0.12):
        add_run(root, [step, step], compute_shares=[0.7], hostnames=["a"], samples=20)
        add_run(
            root,
            [step, step * 1.1],
            strategy="mwms",
            num_processes=2,
            num_devices=2,
            compute_shares=[0.6, 0.6 / 1.1],
            hostnames=["a", "b"],
            samples=20,
        )
    add_run(root, status="failed", error="boom", label="l", failed_rank=1, failed_phase="trace")
    return root


class Elements(HTMLParser):
    """Every element and attribute of a page, outside of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_the_command_prints_the_table_and_writes_the_page(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = store.parent / "out"
    assert command(store, f"--output={out}") == 0
    said = capsys.readouterr().out
    assert all(heading in said for heading in table.HEADINGS[1:])
    assert "mnist_cnn on synthetic, 64 images a device, 1 core a device" in said
    rate = typical([64 / step for step in (0.1, 0.11, 0.12)])
    assert rate.low is not None
    assert rate.high is not None
    assert f"{rate.value:.4g}" in said
    assert f"{rate.low:.4g} - {rate.high:.4g}" in said
    assert "3 + 1 failed" in said
    assert "base cases: single x1 mnist_cnn (3 runs)." in said
    assert said.splitlines()[-1] == f"Report: {out / 'report.html'}"
    assert [path.name for path in out.iterdir()] == ["report.html"]


def test_formats_choose_the_files(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = store.parent / "out"
    assert command(store, f"--output={out}", "--format=text") == 0
    assert not out.exists()
    assert command(store, f"--output={out}", "--format", "png, svg") == 0
    stem = "mnist_cnn_on_synthetic_64_images_a_device_1_core_a_device"
    assert {path.name for path in out.iterdir()} == {f"{stem}.png", f"{stem}.svg"}
    assert all(path.stat().st_size > 10_000 for path in out.iterdir())
    assert f"Figure: {out / stem}.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format=pdf"], "--format=pdf: give one or more of html, png, svg, text"),
        (["--nonsense"], "nonsense"),
        (["--floor=high"], "--floor"),
        (["--experiment=three"], "no run of experiment 'three'. There are: e"),
        (["--where=nonsense >"], "--where"),
        (["--output=/dev/null/x"], "'/dev/null/x'"),
    ],
)
def test_what_is_wrong_is_one_line(
    store: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert command(store, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("analysis.report: ")
    assert said in line


@pytest.mark.parametrize("make", [False, True])
def test_an_empty_store_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], make: bool) -> None:
    if make:
        (tmp_path / "runs").mkdir()
    assert command(tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no runs in" in line


def test_a_store_with_failures_only_still_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        add_run(tmp_path / "data", status="oom", error="too big", failed_rank=2, failed_phase="build")
    assert command(tmp_path / "data", f"--output={tmp_path}/out", "--format=html,png") == 0
    assert "0 + 3 failed" in capsys.readouterr().out
    text = (tmp_path / "out" / "report.html").read_text()
    assert "<tr><td>3</td><td>l</td><td>oom</td><td>rank 2 in build</td><td>too big</td></tr>" in text
    assert plots_of(text) == []


def test_skipped_files_are_named_and_change_the_exit_code(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = next((store / "iters").rglob("*.parquet")).with_name("R99999.parquet")
    broken.write_bytes(b"no parquet")
    out = store.parent / "out"
    assert command(store, f"--output={out}") == 3
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith(f"analysis.report: skipped {broken}")
    assert "1 file of the store could not be read" in captured.out
    assert str(broken) in (out / "report.html").read_text()


def test_failures_are_grouped_and_the_list_is_bounded(tmp_path: Path) -> None:
    for number in range(page.MOST_FAILURES + 5):
        add_run(tmp_path, status="failed", error=f"error {number}")
    content = content_of(tmp_path)
    assert len(content.failures) == page.MOST_FAILURES + 5
    text = page.render(content, "t")
    assert text.count("<td>error ") == page.MOST_FAILURES
    assert f"The {page.MOST_FAILURES} most frequent of {page.MOST_FAILURES + 5} ways" in text


def test_markdown_is_printed_and_appended_only_when_asked(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = store.parent / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert command(store, "--format=text") == 0
    assert summary.read_text() == "before\n"
    capsys.readouterr()
    assert command(store, "--format=text", "--markdown") == 0
    said = capsys.readouterr().out
    assert summary.read_text() == f"before\n{said}"
    assert "| strategy | devices | runs |" in said
    assert "| --- | ---: |" in said
    assert re.search(r"^\| mwms \| 2 CPU \| 3 \| ", said, re.M)


def test_the_page_is_whole_escapes_everything_and_runs_only_its_own_scripts(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for text in HOSTILE:
        everywhere = dict.fromkeys(("model", "strategy", "dataset", "label", "experiment", "device_name"), text)
        known = {"hostname": text, "tensorflow_version": text}
        add_run(root, [0.1], **everywhere, provenance=known, hostnames=[text], samples=5)
        add_run(root, status="failed", error=text, **everywhere, provenance=known, failed_phase=text)
    text = page.render(content_of(root), HOSTILE[0])
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert len(scripts) == 2
    for script in scripts:
        digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in text
    assert "unsafe-inline'; img" in text  # of styles, which plotly makes
    assert "script-src 'unsafe" not in text
    shell = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    found = Elements(shell)
    assert not found.tags & {"img", "svg", "iframe", "link", "object", "embed", "b", "base", "form"}
    assert not any(name.startswith("on") or name in ("src", "srcset") for name in found.attributes)
    assert "javascript:" not in "".join(re.findall(r'href="[^"]*"', shell))
    assert all("<" not in name for spec in plots_of(text) for name in strings_of(spec) if "<br>" not in name)
    assert "\x1b" not in text


def strings_of(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else []
    return [text for each in inside for text in strings_of(each)]


def test_hostile_words_do_no_harm_on_a_terminal_in_figures_or_in_markdown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in HOSTILE:
        add_run(tmp_path / "data", [0.1], model=text, strategy=text)
    assert command(tmp_path / "data", f"--output={tmp_path}/out", "--format=png") == 0
    said = capsys.readouterr().out
    assert "[red]rich[/red]" in said
    assert "\x1b[31m" not in said
    assert len(list((tmp_path / "out").iterdir())) == len(HOSTILE)
    assert command(tmp_path / "data", "--format=text", "--markdown") == 0
    said = capsys.readouterr().out
    assert "<img" not in said
    for line in said.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == len(table.HEADINGS)


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
        assert parts["data wait"][index] == pytest.approx(step.value * 0.1e3, rel=1e-3)
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
    add_run(tmp_path, [0.1, 0.2], compute_shares=shares, hostnames=["a<", "b"], **run)
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


def test_servers_count_as_resources_in_the_second_efficiency(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1])
    add_run(tmp_path, [0.1], strategy="ps", num_processes=3, num_devices=2, num_ps=1)
    content = content_of(tmp_path)
    cells = {one.configuration.series: table.cells(one, "x") for one in content.standings}
    assert cells["ps"][table.HEADINGS.index("efficiency")] == ("100%", pytest.approx(1))
    assert cells["ps"][table.HEADINGS.index("devices")] == ("2 CPU + 1 PS", 2)
    assert any(
        "Counting each as a device, the efficiency is 67% for ps x2 mnist_cnn." in note for note in content.notes
    )


def test_lines_that_would_hide_each_other_are_told_apart(tmp_path: Path) -> None:
    for nodes in (1, 2):
        add_run(tmp_path, strategy="mwms", num_devices=4, num_processes=4, num_nodes=nodes)
    add_run(tmp_path, strategy="mwms", num_devices=8, num_processes=8, num_nodes=2)
    found = [one.configuration for one in content_of(tmp_path).standings]
    assert sorted(labels.series(found).values()) == ["mwms, 2 a node", "mwms, 4 a node", "mwms, 4 a node"]


def test_what_differs_between_machines_is_said(tmp_path: Path) -> None:
    for number in range(25):
        add_run(tmp_path, provenance={"hostname": f"n{number:02d}", "tensorflow_version": f"2.{number % 2}"})
    content = content_of(tmp_path)
    assert content.differing == [
        "hostname: n00, n01, n02, n03, n04 and 20 more",
        "tensorflow_version: 2.0, 2.1",
    ]
    assert content.warnings[-1] == (
        "Runs of one configuration are pooled although they ran with different tensorflow_version (in 1)."
    )
    text = page.render(content, "t")
    assert "and 5 more" in text
    assert "Runs are pooled only when all of these are equal: strategy, requested_all_reduce" in text


def test_a_reader_that_has_seen_enough_is_no_error(store: Path) -> None:
    words = f"'{sys.executable}' -m analysis.report --results-dir={store} --format=text | head -1 >/dev/null"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {words}"], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("table", ["iters", "telemetry"])
def test_damage_that_shows_only_in_the_plots_is_skipped_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str
) -> None:
    """A column that no figure needs is read when the page is made."""
    data = tmp_path / "data"
    for _ in range(2):
        add_run(data, [0.1] * 40, samples=40, hostnames=["a"])
    newest = next((data / table).rglob("R00001.parquet"))
    column = {"iters": "loss", "telemetry": "cpu_pct"}[table]
    held = pq.ParquetFile(newest)
    group = held.metadata.row_group(0)
    (chunk,) = (group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content = bytearray(newest.read_bytes())
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    newest.write_bytes(content)
    assert command(data, f"--output={tmp_path}/out") == 3
    assert "R00001.parquet: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--floor=-3", "--floor=nan", "--link-gb-per-s=0"])
def test_limits_that_limit_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str) -> None:
    add_run(tmp_path)
    assert command(tmp_path, flag) == 2
    assert flag.partition("=")[0] in capsys.readouterr().err


def test_runs_without_readable_iterations_are_told_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    for model in ("mnist_cnn", "vgg16"):
        add_run(data, [0.1], model=model)
        add_run(data, [0.1], model=model, strategy="mwms", num_processes=2, num_devices=2)
    for run_id, whole in (("R00001", False), ("R00002", True), ("R00003", True)):
        (path,) = (data / "iters").rglob(f"{run_id}.parquet")
        path.unlink() if whole else path.write_bytes(path.read_bytes()[:200])
    assert command(data, f"--output={tmp_path}/out", "--format=html,png") == 3
    captured = capsys.readouterr()
    assert "R00001.parquet: cannot be read" in captured.err
    assert "Iterations are missing or cannot be read in 3 of 4 runs that ended well" in captured.out
    assert captured.out.count("unreadable") == 3
    assert len([*(tmp_path / "out").iterdir()]) == 2  # the page, and the figure of the one workload that has figures
