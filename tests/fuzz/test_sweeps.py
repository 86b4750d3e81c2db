"""Sweep files with values that nobody should give: a list of runs with commands, or one line."""

from __future__ import annotations

import json
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bench.config import parse
from bench.errors import UsageError
from jobs.matrix import load
from jobs.script import render
from jobs.site import Site
from jobs.submission import grouped
from jobs.sweep import Options, step_of
from results.command_line import Refused, words_of
from tests.fuzz import costly, hostile_texts, is_one_line

KEYS = ("strategy", "model", "num_iters", "num-iters", "label", "nodes", "tasks_per_node", "data_dir", "xla")


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's strings are TOML's, but for the halves of characters, which neither can hold, and U+007F.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{toml(key)} = {toml(each)}' for key, each in value.items())} }}"
    if isinstance(value, Raw):
        return value.text
    return str(value)


class Raw:
    """What stands in the file as it is."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"Raw({self.text!r})"


raw = st.sampled_from(
    (
        *("nan", "-inf", "1e999", "0xffffffffffffffffff", "0x" + "f" * 5000, "9" * 5000, "1_000", "2026-05-01"),
        *("07:30:00", "1979-05-27T07:32:00Z", "''", '"\\u0000"', "[" * 2000 + "]" * 2000, "{}", "[]", "[[]]"),
        *("{ a.b.c = 1 }", "{ " + ".".join("a" * 1200) + " = 1 }"),
    )
).map(Raw)
texts = hostile_texts | st.sampled_from(("single", "mwms", "mnist_cnn", "\0", "a" * 300, "é" * 100))
plain = st.integers(-1, 4) | st.integers() | st.booleans() | st.floats() | texts | st.just(date(2026, 5, 1)) | raw
keys = st.sampled_from(KEYS) | hostile_texts
tables = st.dictionaries(keys, plain, max_size=3)
values = plain | st.lists(plain, max_size=3) | tables | st.lists(tables, max_size=3)
flags = st.fixed_dictionaries(
    {"strategy": st.sampled_from(("single", "mwms"))}, optional={"nodes": st.integers(1, 2), "label": texts}
)
numbers = st.lists(st.integers(1, 99), min_size=1, max_size=3, unique=True)
axes = st.dictionaries(st.sampled_from(KEYS), numbers, max_size=3)
good_sweeps = st.fixed_dictionaries(
    {"settings": flags, "matrix": axes},
    optional={
        "repeats": st.integers(1, 3),
        "preload": st.booleans(),
        "exclude": st.lists(st.fixed_dictionaries({"strategy": st.just("single")}), max_size=1),
    },
)


@st.composite
def sweep_files(draw: st.DrawFn) -> str:
    """The text of a sweep file, with at most two values that are not what they should be."""
    spec = draw(good_sweeps)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.sampled_from([spec, *(each for each in spec.values() if isinstance(each, dict))]))
        place[draw(st.sampled_from(sorted(place)) | keys if place else keys)] = draw(values)
    lines = [f"{toml(key)} = {toml(value)}" for key, value in spec.items() if not isinstance(value, dict)]
    for name, table in spec.items():
        if isinstance(table, dict):
            lines += [f"[{toml(name)}]", *(f"{toml(key)} = {toml(value)}" for key, value in table.items())]
    return "\n".join(lines)


@given(sweep_files() | st.text(max_size=60))
def test_any_sweep_file_is_runs_with_commands_or_one_line(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sweep.toml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        options = Options(file=path, results_dir=Path(folder))
        try:
            sweep = load(path)
        except Refused as error:
            assert is_one_line(error)
            return
        runs = list(sweep.runs())
        names = [each.name for each in sweep.configurations]
        assert len(set(names)) == len(names)
        assert all(len(name.encode()) <= 120 and not set(name) & set("/\0 \n") for name in names)
        assert len({run.task for run in runs}) == len(runs) == len(names) * sweep.repeats
        for name, group in grouped(runs, "configuration").items():
            steps = [step_of(run, options) for run in group]
            render(steps, Site(), name=name, output="out", finished=None, made_by="a test")


@costly(8)
@given(flags | st.dictionaries(st.sampled_from(("label", "num_iters", "batch_size", "timeout", "xla")), plain))
def test_settings_mean_the_same_to_the_run(asked: dict[str, Any]) -> None:
    """What a run makes of its words is what it records, and means the same when it is given again."""
    plainly = {name: value for name, value in asked.items() if not isinstance(value, Raw) and name != "nodes"}
    try:
        config = parse([word for name, value in plainly.items() for word in words_of(name, value)])
    except (Refused, UsageError) as error:
        assert is_one_line(error)
        return
    said = {name: value for name, value in config.as_dict().items() if value is not None and value is not False}
    again = parse([word for name, value in said.items() for word in words_of(name, value)])
    assert again.as_dict() == config.as_dict()
