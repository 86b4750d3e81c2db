"""Every command with words that nobody should type: a known exit code, never a traceback, usage errors on one line."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import EnvironmentFault
from jobs.cluster import ClusterError
from tests.benchmark import ROOT
from tests.fuzz import costly, hostile_texts

COMMANDS = {
    "bench.run": ["--dry-run", "--device=cpu"],
    "bench.verify": [],
    "bench.doctor": [],
    "bench.data write": ["--output=out", "--generate=8"],
    "bench.data index": ["."],
    "bench.data check": ["."],
    "bench.data fetch": [],
    "bench.transfer": [],
    "bench.workloads.__main__": ["lenet5"],
    "jobs.sweep": [f"{ROOT}/jobs/sweeps/quick.toml", "--dry-run"],
    "jobs.render": [],
    "analysis.report": [],
    "analysis.compare": [],
    "analysis.regress": [],
    "analysis.history": [],
}
"""Command -> words with which it does something harmless. A second word is a command of a command."""


@pytest.fixture(autouse=True, scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """In an empty folder, outside of any job, and with nothing that would start a process."""

    def stop(*_args: object, **_more: object) -> int:
        raise ClusterError("nothing is started here")

    def load(*_: object) -> None:
        raise EnvironmentFault("nothing is loaded here")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("empty"))
        patch.setattr("jobs.site.PROFILE", Path("/nowhere/site.toml"))
        patch.setenv("PATH", "/nowhere")
        for name in ("OPENBLAS_NUM_THREADS", "TF_CPP_MIN_LOG_LEVEL", "CUDA_VISIBLE_DEVICES"):  # which commands set
            patch.setenv(name, os.environ.get(name, ""))
        for name in ("bench.supervise.supervise", "bench.doctor.examine"):
            patch.setattr(name, stop)
        for name in ("bench.data._load_tensorflow", "bench.transfer.prepare", "bench.frameworks.load_quietly"):
            patch.setattr(name, load)
        for name in ("bench.verify.verify", "jobs.sweep.run_all", "jobs.sweep.submit_all"):
            patch.setattr(name, lambda *_: 0)
        yield


def main_of(command: str) -> Callable[[list[str]], int]:
    """What runs a command line."""
    module, *first = command.split()
    return lambda words: importlib.import_module(module).main([*first, *words])


@cache
def flags_of(command: str) -> list[str]:
    """The flags in a command's help; --debug asks for tracebacks."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main_of(command)(["--help"])
    return sorted(set(re.findall(r"--[a-z][\w-]+", said.getvalue())) - {"--debug"})


@st.composite
def command_lines(draw: st.DrawFn, command: str, flags: list[str]) -> list[str]:
    """Mostly flags of the command, mostly with strange values."""
    known = st.sampled_from(flags) | st.sampled_from(("--", "--config", "--no-such-flag", "-h"))
    values = hostile_texts | st.sampled_from(
        ("single", "mwms", "2", "cpu", "1" + "0" * 12, str(ROOT / "pyproject.toml"), "\udcff")
    )
    word = st.builds("{}={}".format, known, values) | known | values
    words = [each.replace("\0", "") for each in draw(st.lists(word, max_size=4))]
    return words + COMMANDS[command] if draw(st.booleans()) else COMMANDS[command] + words


def said_by(command: str, words: list[str]) -> tuple[int, str]:
    """(exit code, standard error); what cannot be encoded fails as it would on a terminal."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors=errors) for errors in ("strict", "backslashreplace"))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main_of(command)(words)
        except SystemExit as stop:
            assert not stop.code, stop  # only --help
            code = 0
        out.flush()
        err.flush()
    return int(code), err.buffer.getvalue().decode()  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
@costly(10)
@given(data=st.data())
def test_any_words_end_in_a_known_way(command: str, data: st.DataObject) -> None:
    words = data.draw(command_lines(command, flags_of(command)))
    code, said = said_by(command, words)
    assert code in (0, 2, 3)
    assert (code == 0) == (said == "")
    prog = command.partition(" ")[0].removesuffix(".__main__")
    assert re.fullmatch(rf"(?s)({re.escape(prog)}: [^\n]+\n)?", said)
    assert not list(Path().rglob("*"))
