"""The report, whatever it is written in: what it shows, what it escapes, and how the command ends."""

from __future__ import annotations

import hashlib
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

from analysis import table
from analysis.drawing import charts, page
from analysis.report import main
from analysis.stats import typical
from tests.benchmark import ROOT
from tests.hostile import HOSTILE
from tests.report_content import content_of, measured, plots_of
from tests.synthetic_store import add_run


def command(root: Path, *words: str) -> int:
    return main([f"--results-dir={root}", *words])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return measured(tmp_path / "data")


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


def test_what_was_predicted_and_mfu_are_shown_where_they_are_known(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1])
    assert table.headings(content_of(tmp_path).standings) == table.HEADINGS
    known = {"train_flops_per_image": 3_000_000, "peak_flops_per_s": 1e10, "predicted_mem_bytes": 3 << 29}
    add_run(tmp_path, [0.1], batch_per_device=100, **known)
    content = content_of(tmp_path)
    shown = table.headings(content.standings)
    assert shown == (*table.HEADINGS, "predicted", "MFU")
    rows = {
        one.configuration.setup["batch_per_device"]: dict(zip(shown, table.cells(one, "x", shown), strict=True))
        for one in content.standings
    }
    unknown, found = rows[64], rows[100]
    assert (unknown["predicted"], unknown["MFU"]) == (("-", None), ("-", None))
    assert found["predicted"] == ("1.50 GiB", pytest.approx(3 << 29))
    assert found["MFU"] == ("30.0%", pytest.approx(0.3))
    assert {note.partition(":")[0] for note in content.notes} >= {"predicted", "MFU"}
    (marks,) = (
        trace
        for spec in plots_of(page.render(content, "t"))
        for trace in spec["data"]
        if trace.get("name") == charts.PREDICTION
    )
    assert marks["y"] == [1.5]


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


@pytest.mark.commands
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
