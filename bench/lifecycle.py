"""The start and the end of a run, as the process that answers for it writes them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from bench import frameworks, output, provenance
from bench.plan import Plan
from bench.summary import summarise
from bench.telemetry import Gpus
from jobs.cluster import whole_number
from results.exit_codes import ExitCode
from results.record import Ending, conclude, could_not_start
from results.store import Shard, ShardContent, Store

RUN_ID = "TRAINSCALE_RUN_ID"
"""Variable in which whoever starts rank 0 tells its workers the run's id."""


_MOST_RESTARTS = 1000

_NOT_ASKED = {
    "epochs": "iterations were asked for, not epochs",
    "lr_warmup_epochs": "the learning rate is the same in all steps",
    **dict.fromkeys(("target_accuracy", "time_to_accuracy_s"), "no target accuracy was asked for"),
    "sweep_task": "the run is not part of a sweep",
    "job_id": "no batch system started the run",
    "restart_count": "only Slurm counts restarts",
    "restart_of": "no attempt of the same job was cut off before",
    "classes": "no classes were chosen",
    "num_train_samples": "all training images are used",
    "freeze": "every layer is trained",
    "weights": "the weights begin at random",
}
"""Column -> why it is null where nothing asks for it."""

_UNTIL_THE_END = {
    **dict.fromkeys(("num_samples", "data_digest", "sharding", "num_iters"), "the run ended before its data was read"),
    **dict.fromkeys(
        ("num_params", "trainable_params", "gradient_bytes", "predicted_mem_bytes"),
        "the run ended before its model was built",
    ),
    **dict.fromkeys(("peak_flops_per_s", "peak_source"), "the run ended before its peak was known"),
    "actual_all_reduce": "the run ended before its step was looked at",
    "onednn": "the run ended before TensorFlow was asked",
    **dict.fromkeys(
        (f"provenance.{name}" for name in (*provenance.OF_GPUS, "mpi_library", "horovod_version")),
        "the run ended before its libraries were looked at",
    ),
    **dict.fromkeys(("flops_per_image", "train_flops_per_image"), "the run ended before they were counted"),
    "time_to_accuracy_s": "the run ended before an evaluation reached the target",
}
"""The same for what a run tells later than the rest."""

_NOTHING_TRAINED = {
    **dict.fromkeys(("synchronous", "optimizer", "learning_rate"), "the forward phase changes no weights"),
    **dict.fromkeys(("requested_all_reduce", "actual_all_reduce"), "the forward phase exchanges no gradients"),
    "gradient_bytes": "the forward phase makes no gradients",
}
"""The same in the forward phase."""


def describe_run(shard: Shard, store: Store, plan: Plan, env: Mapping[str, str], gpus: Gpus) -> None:
    """Writes what this host can tell of the run: where it runs, and why some columns will be null."""
    fields, reasons = provenance.of_host(env, gpus)
    reasons |= _UNTIL_THE_END
    if plan.forward:
        reasons |= _NOTHING_TRAINED
    elif plan.strategy.requested_all_reduce is None:
        reasons["requested_all_reduce"] = f"strategy {plan.strategy.name!r} has no all-reduce"
    reasons |= _of_devices(plan, gpus)
    preloaded = frameworks.preloaded()
    if preloaded:
        for column in ("import_s", "startup_time_s"):
            reasons[column] = "TensorFlow was loaded once, before the processes were forked"
    job = _batch_job(store, plan, env)
    known = {**plan.run_fields(), **job, "time_to_accuracy_s": plan.config.training.target_accuracy}
    reasons |= {column: reason for column, reason in _NOT_ASKED.items() if known[column] is None}
    shard.update_run(
        **job,
        preloaded=preloaded,
        provenance=fields,
        null_reasons=reasons,
    )


def _of_devices(plan: Plan, gpus: Gpus) -> dict[str, str]:
    """Why columns will be null, or null in some rows of `ranks`: of the devices, and of who looks at them."""
    reasons: dict[str, str] = {}
    on_cpu = "the run used the CPU" if plan.strategy.resources.device_kind == "cpu" else None
    if on_cpu:
        reasons |= {f"provenance.{name}": on_cpu for name in provenance.OF_GPUS}
    else:
        reasons["onednn"] = "oneDNN computes on CPUs, and the run used GPUs"
    if no_gpu := gpus.unavailable or on_cpu:
        for column in ("gpu_mem_used_bytes", "gpu_peak_mem_used_bytes", "energy_j"):
            reasons[column] = no_gpu
    elif not plan.config.measure.telemetry_period:
        reasons["gpu_peak_mem_used_bytes"] = "--telemetry-period 0 takes no samples"
    elif plan.strategy.cluster.size > 1:
        # Null in some rows of `ranks`.
        reasons["gpu_peak_mem_used_bytes"] = "of a host's processes, the first that trains samples the GPUs they share"
    if plan.strategy.cluster.size > 1:
        # Null in some rows of `ranks`.
        reasons["other_cores"] = "of a host's processes, the first looks at the others of the host, where it trains"
    if plan.strategy.resources.gpu_memory_mib is None:
        reasons["gpu_memory_mib"] = "no limit was asked for"
    if any(not plan.strategy.replicas(task) for task in plan.strategy.cluster.tasks):
        # Null in some rows of `ranks`.
        for column in ("trace_s", "warmup_s", "startup_time_s", "timed_s", "retraces", "devices", "weight_digests"):
            reasons[column] = "rank 0 drives the other processes, and only it has these"
        reasons["framework_peak_mem_bytes"] = "TensorFlow tells it to the process alone that owns the device"
    return reasons


def _batch_job(store: Store, plan: Plan, env: Mapping[str, str]) -> dict[str, Any]:
    """The job that this run is part of and, where Slurm has requeued it, the run that was cut off."""
    job_id = next((env[name] for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID") if env.get(name)), None)
    if "SLURM_JOB_ID" not in env:
        return {"job_id": job_id, "restart_count": None, "restart_of": None}
    count = whole_number(env.get("SLURM_RESTART_COUNT", ""), _MOST_RESTARTS) or 0
    fields = plan.run_fields()
    same = {name: fields[name] for name in ("experiment", "label", "sweep_task", "strategy", "model", "global_batch")}
    earlier = (store.newest_run(job_id=job_id, restart_count=n, **same) for n in reversed(range(count)))
    cut_off = next((run_id for run_id in earlier if run_id), None)
    return {"job_id": job_id, "restart_count": count, "restart_of": cut_off}


def finish(store: Store, run_id: str, shards: list[ShardContent], ending: Ending, *, as_json: bool) -> int:
    """Turns the shards of an ended run into its rows, says how it went, and returns the run's exit code.

    A run that could not start (exit 2 or 3, and nothing measured) leaves nothing behind. Rows that the disk does not
    take stay in the shards: exit 3.
    """
    tables = conclude(run_id, shards, ending, datetime.now(timezone.utc))
    run_row = tables["runs"][0]
    unwritten = None
    if could_not_start(tables):
        store.discard(run_id)
    else:
        try:
            store.commit(run_id, run_row["started_at"], tables)
        except OSError as problem:
            unwritten = problem
    if run_row["status"] != "ok":
        rank, error = run_row["failed_rank"], run_row["error"]
        known = rank is None or f"rank {rank} " in error
        output.complain(error if known else f"rank {rank} in {run_row['failed_phase']}: {error}")
    output.print_summary(summarise(tables), as_json=as_json)
    if unwritten:
        output.complain(
            f"results directory {str(store.root)!r} cannot be written ({unwritten.strerror or unwritten}): what was "
            "measured is kept there; mend it, and python -m results.check --recover makes it a run"
        )
        return int(ExitCode.ENVIRONMENT)
    return int(run_row["exit_code"])
