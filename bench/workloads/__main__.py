"""List the models, what they cost and what they need: `python -m bench.workloads`, or with names only those.

What models cost as they are is read from `costs.json`, which a test compares with the built models; for other images,
classes or batches the models are built, without values in their weights, and counted. This writes the table anew:

    python -m bench.workloads --build --json | python -m json.tool > bench/workloads/costs.json
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from tyro.conf import FlagCreatePairsOff, Positional

from bench import frameworks
from bench.config import WorkloadConfig
from bench.errors import BenchError
from bench.plan import DEFAULT_BATCH_SIZE
from bench.workloads import outline
from bench.workloads.models import CATALOGUE, MODELS, ModelSpec, model_spec
from results.command_line import complain, perform
from results.exit_codes import ExitCode

PROG = "bench.workloads"

COSTS = Path(__file__).with_name("costs.json")
"""The rows of `describe` for all models, as they are and at the default batch."""

_TRAINED_BYTES = 4
"""Of a weight; they are float32 in every precision."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """List models: their input, weights, arithmetic an image and the memory that a training step is predicted to need.

    Models for other images, classes or batches are built and counted, which takes seconds per model.
    """

    models: Positional[tuple[str, ...]] = ()
    """Names, as in --model of bench.run. None named are all."""
    image_size: int | None = None
    """Height and width of the images [pixels], as in bench.run."""
    num_classes: int | None = None
    """Classes, as in bench.run."""
    batch_size: int = DEFAULT_BATCH_SIZE
    """Images a step on one device, for the memory [images]."""
    build: FlagCreatePairsOff[bool] = False
    """Build and count the models as they are too, with the installed TensorFlow and Keras."""
    json: FlagCreatePairsOff[bool] = False
    """Print one machine-readable line instead."""

    def __post_init__(self) -> None:
        # bench.run's words for what is no size at all.
        WorkloadConfig(image_size=self.image_size, num_classes=self.num_classes, batch_size=self.batch_size)

    @property
    def is_tabled(self) -> bool:
        """Whether the table of costs has what is to be listed."""
        own = self.image_size is None and self.num_classes is None and self.batch_size == DEFAULT_BATCH_SIZE
        return own and not self.build


@dataclass(frozen=True)
class _Column:
    """One figure of a model."""

    name: str
    """Of the machine-readable line."""
    heading: str
    text: Callable[[Any], str]


_COLUMNS = (
    _Column("model", "model", str),
    _Column("input", "input", lambda shape: "x".join(map(str, shape))),
    _Column("num_classes", "classes", str),
    _Column("num_params", "parameters", "{:,}".format),
    _Column("trainable_params", "trainable", "{:,}".format),
    _Column("gradient_bytes", "gradients", lambda count: f"{count / 2**20:,.1f} MiB"),
    _Column("flops_per_image", "forward", lambda count: f"{count / 1e9:,.3f} GFLOP"),
    _Column("train_flops_per_image", "training", lambda count: f"{count / 1e9:,.3f} GFLOP"),
    _Column("predicted_mem_bytes", "memory", lambda count: "-" if count is None else f"{count / 2**30:.2f} GiB"),
)


def describe(spec: ModelSpec, model: Any, batch_size: int) -> dict[str, Any]:
    """The figures of a built model, by the names of _COLUMNS; memory as plain SGD needs it. Loads TensorFlow."""
    from bench.workloads.arithmetic import count_flops
    from bench.workloads.memory import predict

    flops, memory = count_flops(model), predict(model, batch=batch_size)
    trained = int(sum(variable.value.shape.num_elements() for variable in model.trainable_variables))
    return {
        "model": spec.name,
        "input": spec.input_shape,
        "num_classes": spec.num_classes,
        "num_params": int(model.count_params()),
        "trainable_params": trained,
        "gradient_bytes": trained * _TRAINED_BYTES,
        "flops_per_image": flops.forward,
        "train_flops_per_image": flops.train,
        "predicted_mem_bytes": memory and memory.total,
    }


def read_costs() -> dict[str, dict[str, Any]]:
    """The table of costs: model -> what `describe` gives for it as it is, at the default batch."""
    return {row["model"]: row for row in json.loads(COSTS.read_text(encoding="utf-8"))}


def list_models(options: Options, console: Console) -> int:
    """Prints the list and returns the exit code. Raises BenchError, before anything is built."""
    names = options.models or (*MODELS, *CATALOGUE)
    specs = [model_spec(name, options.image_size, options.num_classes) for name in names]
    if options.is_tabled:
        costs = read_costs()
        rows = [costs[spec.name] for spec in specs]
    else:
        rows = _build(specs, options, console)
    if options.json:
        print(json.dumps(rows))
        return ExitCode.OK
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in _COLUMNS:
        table.add_column(column.heading, justify="left" if column.name == "model" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(column.text(row[column.name]) for column in _COLUMNS))
    console.print(table)
    print(
        f"forward, training: of one image. memory: of one device that trains {options.batch_size} images a step with "
        "plain SGD."
    )
    return ExitCode.OK


def _build(specs: Sequence[ModelSpec], options: Options, console: Console) -> list[dict[str, Any]]:
    """The figures of each model, which is built."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # nothing is computed
    frameworks.load_quietly()
    rows = []
    for number, spec in enumerate(specs, 1):
        if console.is_terminal and not options.json:
            console.print(f"{number} of {len(specs)}: {spec.name} ...".ljust(60), end="\r")
        rows.append(describe(spec, outline(spec), options.batch_size))
    return rows


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 0 listed, 2 usage, 3 TensorFlow cannot be loaded."""

    try:
        return perform(
            PROG, Options, argv, lambda options: list_models(options, Console(width=max(130, Console().width)))
        )
    except BenchError as error:
        return complain(PROG, error, int(error.exit_code))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
