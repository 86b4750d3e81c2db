"""What every command does about a reader that goes away."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.benchmark import ROOT
from tests.fuzz.test_command_lines import COMMANDS

pytestmark = pytest.mark.commands

TALKS = """
import sys
from dataclasses import dataclass
from rich.console import Console
from results.command_line import perform

@dataclass(frozen=True)
class Options:
    "Talks."

def work(options):
    for _ in range(200):  # more than a pipe holds
        print("x" * 1000)
    Console().print("y")
    print("done", file=sys.stderr)
    return 5

sys.exit(perform("talks", Options, [], work))
"""


def talk(redirection: str) -> subprocess.CompletedProcess[str]:
    words = ["bash", "-c", f'set -o pipefail; "$0" -c "$1" {redirection}', sys.executable, TALKS]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_reader_that_has_seen_enough_changes_neither_the_work_nor_its_exit_code() -> None:
    """As of a gate in `| grep -q`: to stop at the first line that nobody reads would turn its verdict into another."""
    for redirection in ("| head -1", "| true", ">&-"):
        done = talk(redirection)
        assert (done.returncode, done.stderr) == (5, "done\n"), redirection
    assert talk("| head -1").stdout == "x" * 1000 + "\n"


def modules() -> set[str]:
    """Every module with a command line of its own."""
    packages = ("analysis", "bench", "jobs", "results")
    paths = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    texts = {path: path.read_text() for path in paths}
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path, text in texts.items()
        if "def main(argv" in text and 'if __name__ == "__main__"' in text
    }


@pytest.mark.parametrize("command", sorted({*modules(), *(name.removesuffix(".__main__") for name in COMMANDS)}))
def test_help_is_silent_without_a_reader(command: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", *command.split(), "--help"]
    done = subprocess.run(words, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_lines_arrive_at_once_where_python_was_told_so() -> None:
    """As a batch script does, so that its log can be followed."""
    program = TALKS.replace("return 5", "import os; print('last'); os._exit(5)")
    words = [sys.executable, "-u", "-c", program]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (5, "last")


def test_output_that_a_full_disk_does_not_take_is_an_error() -> None:
    done = talk(">/dev/full")
    assert done.returncode == 2
    assert done.stderr == "talks: cannot read or write: No space left on device\n"
