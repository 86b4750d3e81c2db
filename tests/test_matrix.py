from __future__ import annotations

from pathlib import Path

import pytest

from bench.config import parse
from jobs.matrix import Configuration, Run, Sweep, benchmark_words, load
from results.command_line import Refused
from tests.benchmark import ROOT

MARKED = {
    "# cores_per_device = 16": "cores_per_device = 16",
    "tasks_per_node = 1": "tasks_per_node = 4",
    ' { strategy = "independent", nodes = 1 },': "",
    ' { strategy = ["independent", "mwms"], nodes = 1 },': "",
}
"""What docs/cluster.md says to change in a sweep for nodes of four GPUs."""

SHIPPED = sorted((ROOT / "jobs" / "sweeps").glob("*.toml"))


def sweep_file(folder: Path, text: str) -> Path:
    path = folder / "sweep.toml"
    path.write_text(text)
    return path


def configuration(number: int) -> Configuration:
    return Configuration(name=f"c{number}", key=f"{number:016x}", flags={"seed": number}, nodes=1, tasks_per_node=1)


def test_the_matrix_is_every_combination_on_top_of_the_settings(tmp_path: Path) -> None:
    path = sweep_file(
        tmp_path,
        """
        repeats = 2
        [settings]
        seed = 4
        [matrix]
        workload = [{ model = "mnist_cnn", dataset = "digits" }, { model = "vgg16_cifar", seed = 5 }]
        num_workers = [1, 2]
        """,
    )
    sweep = load(path)
    assert sweep.repeats == 2
    assert not sweep.preload
    assert [dict(each.flags) for each in sweep.configurations] == [
        {"seed": 4, "model": "mnist_cnn", "dataset": "digits", "num_workers": 1},
        {"seed": 4, "model": "mnist_cnn", "dataset": "digits", "num_workers": 2},
        {"seed": 5, "model": "vgg16_cifar", "num_workers": 1},
        {"seed": 5, "model": "vgg16_cifar", "num_workers": 2},
    ]


def test_nodes_and_tasks_are_how_a_run_is_started_and_no_flags(tmp_path: Path) -> None:
    path = sweep_file(
        tmp_path,
        """
        exclude = [{ strategy = ["single", "mirrored"], nodes = [2, 4] }, { nodes = 4, tasks_per_node = 2 }]
        [settings]
        batch_size = 8
        [matrix]
        strategy = ["single", "mwms"]
        nodes = [1, 2, 4]
        tasks_per_node = [1, 2]
        """,
    )
    found = [(each.name, each.flags["strategy"], each.nodes, each.tasks_per_node) for each in load(path).configurations]
    assert found == [
        ("single-1x1", "single", 1, 1),
        ("single-1x2", "single", 1, 2),
        ("mwms-1x1", "mwms", 1, 1),
        ("mwms-1x2", "mwms", 1, 2),
        ("mwms-2x1", "mwms", 2, 1),
        ("mwms-2x2", "mwms", 2, 2),
        ("mwms-4x1", "mwms", 4, 1),
    ]
    assert all(set(each.flags) == {"strategy", "batch_size"} for each in load(path).configurations)


def test_names_differ_and_are_fit_for_files(tmp_path: Path) -> None:
    path = sweep_file(
        tmp_path, '[matrix]\nlabel = ["a/b", "a b", "../c"]\nprecision = ["fp32", "bf16"]\nmodel = "vgg16"'
    )
    names = [each.name for each in load(path).configurations]
    assert len(set(names)) == 6
    assert all(name.startswith(("vgg16-fp32-label", "vgg16-bf16-label")) for name in names)
    assert not any(set(name) & set("/ \\'\"$") for name in names)
    (one,) = load(sweep_file(tmp_path, f'[settings]\nstrategy = "{"é" * 200}"')).configurations
    assert len(one.name.encode()) <= 100  # what a file's name may be long is counted in bytes


def test_a_key_outlives_edits_that_leave_the_configuration_alone(tmp_path: Path) -> None:
    first = load(sweep_file(tmp_path, "[settings]\nseed = 1\n[matrix]\nnum_iters = [5, 6]")).configurations
    later = load(sweep_file(tmp_path, "repeats = 9\n[matrix]\nnum_iters = [6, 7]\nseed = 1")).configurations
    assert first[1].key == later[0].key
    assert len({each.key for each in (*first, *later)}) == 3
    other = load(sweep_file(tmp_path, "[settings]\nseed = 2\n[matrix]\nnum_iters = [5]")).configurations
    assert other[0].key not in {each.key for each in first}


def test_repeats_are_interleaved_each_in_an_order_of_its_own() -> None:
    sweep = Sweep(configurations=tuple(map(configuration, range(8))), repeats=3, preload=False)
    runs = [run.configuration.flags["seed"] for run in sweep.runs()]
    repeats = [runs[start : start + 8] for start in (0, 8, 16)]
    assert all(sorted(repeat) == list(range(8)) for repeat in repeats)
    assert len({tuple(repeat) for repeat in repeats}) == 3
    assert runs == [run.configuration.flags["seed"] for run in sweep.runs()]
    assert len({run.task for run in sweep.runs()}) == 24


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("repeat = 2", "unknown key 'repeat'"),
        ("repeats = 0", "repeats is 0"),
        ("preload = 1", "preload is 1"),
        ("settings = 3", "must be tables"),
        ("[matrix]\nnum_workers = []", "matrix.num_workers is empty"),
        ("[matrix]\na = [{ seed = 1 }]\nseed = [2]", "two axes of the matrix set 'seed'"),
        ("[matrix]\nseed = [1, 1]", "twice"),
        ("[matrix]\nnodes = [0]", "nodes is 0"),
        ("[matrix]\ntasks_per_node = ['2']", "tasks_per_node is '2'"),
        ("[settings]\nexperiment = 'x'", "experiment is not for a sweep file"),
        ("[matrix]\nnum_processes = [2]", "num_processes is not for a sweep file"),
        ("exclude = 3", "exclude is 3"),
        ("exclude = [{ seed = 3 }]\n[matrix]\nseed = [1]", "fits no configuration"),
        ("exclude = [{ seed = 1 }]\n[matrix]\nseed = [1]", "every configuration is excluded"),
        ("repeats = ", "is not TOML"),
        (f"[settings]\nseed = {'9' * 5000}", "is not TOML"),  # `int` refuses so many digits
        (f"[settings]\nseed = 0x{'f' * 5000}", "holds a number of more than 64 bits"),
        (f"[settings]\nseed = {'[' * 3000}{']' * 3000}", "is not TOML"),
        (f"[settings]\n{'.'.join('a' * 3000)} = 1", "holds tables and lists in each other"),
        ('[settings]\nlabel = "\\u0000"', "U+0000 cannot stand on a command line"),
        ("[settings]\nnum_iters = [1, 2]", "num_iters is [1, 2]; a setting has one value"),
        ('[settings]\n"a b" = 1', "'settings' sets 'a b'"),
        ("[settings]\nnum_iters = 1\nnum-iters = 2", "'settings' sets 'num-iters'"),
        ('[settings]\n"results-dir" = "x"', "results_dir is not for a sweep file"),
        ("repeats = 1000000000000\n[matrix]\nseed = [1]", "1000000000000 runs; a sweep has at most 100000"),
        ("[matrix]\n" + "\n".join(f"a{n} = [{'1, ' * 10}1]" for n in range(12)), "runs; a sweep has at most 100000"),
    ],
)
def test_a_bad_sweep_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(Refused) as caught:
        load(sweep_file(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_reach_the_command_as_one_word_each(tmp_path: Path) -> None:
    hostile = "a b; $(touch planted) 'q' \"r\" --seed=3\n"
    run = Run(
        Configuration(
            name="c", key="0", flags={"label": hostile, "debug": False, "batch_size": 4}, nodes=1, tasks_per_node=1
        ),
        2,
    )
    words = benchmark_words(run, "mine", tmp_path)
    assert words[:3] == ["-m", "bench.run", f"--label={hostile}"]
    config = parse(words[2:])
    assert config.output.label == hostile
    assert (config.output.experiment, config.output.sweep_task, config.output.results_dir) == ("mine", "0-2", tmp_path)
    assert config.output.json
    assert config.workload.batch_size == 4


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_sweep_holds_valid_commands(path: Path, tmp_path: Path) -> None:
    sweep = load(path)
    assert len(sweep.configurations) > 1
    last_repeats = {run.configuration.key: run for run in sweep.runs()}  # repeats differ in their number alone
    for run in last_repeats.values():
        parse(benchmark_words(run, "x", tmp_path)[2:])


@pytest.mark.parametrize("name", ["weak_scaling", "strong_scaling", "regression", "strategies"])
def test_on_nodes_of_four_gpus_every_run_has_a_base_case_and_one_without_exchange(name: str, tmp_path: Path) -> None:
    text = (ROOT / "jobs" / "sweeps" / f"{name}.toml").read_text()
    for marked, instead in MARKED.items():
        text = text.replace(marked, instead)
    found = load(sweep_file(tmp_path, text)).configurations
    assert {each.flags["cores_per_device"] for each in found} == {16}
    free, mwms = (
        {(each.flags["model"], each.nodes, each.tasks_per_node) for each in found if each.flags["strategy"] == strategy}
        for strategy in ("independent", "mwms")
    )
    if name != "strong_scaling":  # which has no `independent`
        assert free == mwms
        assert {tasks for *_, tasks in free} == {4}  # it trains one device a process
