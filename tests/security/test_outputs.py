"""Hostile words in what the commands print and write for machines. For pages: tests/browser/test_security.py."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from rich.console import Console

from analysis import compare, history, outputs, regress
from jobs.progress import progress
from results.text import printable
from tests.hostile import HOSTILE
from tests.synthetic_store import add_run


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile") / "results" / "data"
    for text in HOSTILE:
        for experiment, factor in (("before", 1.0), ("after", 1.5)):
            for noise in (1, 1.001):
                everywhere = dict.fromkeys(("model", "strategy", "dataset", "label", "device_name"), text)
                known = {"hostname": text, "tensorflow_version": f"{experiment} {text}"}
                add_run(root, [0.1 * factor * noise], **everywhere, experiment=experiment, provenance=known)
    return root


@pytest.fixture
def store(written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(written.parents[1])
    return written


def assert_lines(said: str) -> None:
    """What a terminal gets: no control character but the ends of our own lines."""
    assert all(line.isprintable() for line in said.split("\n"))


def test_verdicts_stay_well_formed(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--json=gate.json", "--junit=gate.xml", "--markdown"]
    assert regress.main(["--baseline=before", "--candidate=after", *files]) == 1
    said = capsys.readouterr()
    assert_lines(said.out + said.err)

    verdicts = json.loads(Path("gate.json").read_text())["verdicts"]
    assert {one["setup"]["model"] for one in verdicts} == {*HOSTILE}
    cases = ET.parse("gate.xml").getroot().findall("testcase")  # noqa: S314 of our own making
    assert len(cases) == len(HOSTILE)
    assert all(case.find("failure") is not None for case in cases)
    names = " ".join(str(case.get("name")) for case in cases)
    assert all(printable(text) in names for text in HOSTILE)

    table = [line for line in said.out.splitlines() if line.startswith("|")]
    assert len(table) == len(HOSTILE) + 2
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {len(outputs.HEADINGS) + 1}
    assert not any(markup in line for line in table for markup in ("<", "&l&", "[red]"))


@pytest.mark.parametrize("command", [compare.main, history.main])
def test_a_terminal_gets_text(store: Path, capsys: pytest.CaptureFixture[str], command: object) -> None:
    words = ["before", "after"] if command is compare.main else []
    assert callable(command)
    assert command(words) == 0
    said = capsys.readouterr()
    assert_lines(said.out + said.err)
    assert "[red]rich[/red]" in " ".join(said.out.split())


@pytest.mark.parametrize("text", HOSTILE)
def test_no_name_finds_runs_that_it_should_not_or_does_harm(
    store: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """Sides that are not there. The error is one line."""
    assert regress.main([f"--baseline={text}", "--candidate=after"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert_lines(line)
    assert regress.main(["--candidate=after", f"--save-baseline={text}"]) == 2
    assert not (store.parent / "baselines").exists()
    assert not list(store.parents[1].glob("**/planted*"))


def test_a_sweep_says_what_a_run_said_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(1, Console()) as tally:
        for text in HOSTILE:
            tally.say(f"run: {text}")
    said = capsys.readouterr().out
    assert_lines(said)
    assert len(said.splitlines()) == len(HOSTILE)
