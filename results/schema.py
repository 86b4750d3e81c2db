"""The tables, five of runs and one of proofs: every column, its type, its unit and its meaning.

A metric that could not be measured is null, and `runs.null_reasons` says why; it is never 0.
The Arrow types are made on demand: the processes that train never load pyarrow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 7

MEASUREMENT_VERSION = 1
"""What is timed, and how. Raised by every change of the input path, of the schedule or of the clocks that can move a
figure: figures of two versions are not samples of the same thing."""


@dataclass(frozen=True)
class Column:
    """One column: `kind` is an Arrow type alias, or one of the names in `_nested_types`."""

    name: str
    kind: str
    meaning: str


RUNS = (
    Column("schema_version", "int64", "version of these tables that wrote the row"),
    Column(
        "measurement_version",
        "int64",
        "raised when a new TrainScale times something else than before; runs of schema 6 and earlier are of version 1",
    ),
    Column("run_id", "string", "unique, sorts by start time"),
    Column("experiment", "string", "what the run belongs to, as given by --experiment"),
    Column("label", "string", "the user's name for the configuration, as given by --label"),
    Column("sweep_task", "string", "what jobs.sweep calls the run, repeat included; null outside sweeps"),
    Column("job_id", "string", "of the batch system; null outside of one"),
    Column("restart_count", "int64", "times Slurm has requeued the job before; null outside Slurm"),
    Column("restart_of", "string", "run_id of the attempt that a requeue cut off"),
    Column("started_at", "timestamp", "UTC"),
    Column("ended_at", "timestamp", "UTC"),
    Column("status", "string", "ok, failed, timeout, oom, interrupted or lost"),
    Column("exit_code", "int64", "what the command exited with"),
    Column("error", "string", "one line; null when ok"),
    Column("failed_rank", "int64", "the rank that failed first; null when ok or when no rank is to blame"),
    Column("failed_phase", "string", "the phase that rank was in"),
    Column("strategy", "string", "as in --strategy, aliases resolved"),
    Column(
        "synchronous",
        "bool",
        "every step averages the gradients of all replicas before the weights change; null in the forward phase",
    ),
    Column("requested_all_reduce", "string", "the collective asked for; null where gradients are not all-reduced"),
    Column("actual_all_reduce", "string", "the collective that the traced step holds"),
    Column("model", "string", "as in --model"),
    Column("image_size", "int64", "height and width of the images that the model takes [pixels]"),
    Column("num_classes", "int64", "classes that the model tells apart"),
    Column("dataset", "string", "as in --dataset"),
    Column("classes", "string", "of the data set that are trained, as in --classes; null for all"),
    Column("num_train_samples", "int64", "training images that are used; null for all"),
    Column("freeze", "string", "layers that are not trained, as in --freeze; null where all are"),
    Column("weights", "string", "SHA-256 of the file that the weights begin with; null where they begin at random"),
    Column("num_samples", "int64", "images in the data set, as far as training reads it"),
    Column("data_digest", "string", "hash of the record files' names, sizes and labels; null where the name says it"),
    Column("sharding", "string", "who reads what of the record files: each process its own (file), or all (record)"),
    Column("cache", "string", "where images are kept between epochs: none, memory or disk"),
    Column("num_params", "int64", "all weights of the model"),
    Column("trainable_params", "int64", "weights that are trained"),
    Column("gradient_bytes", "int64", "bytes of gradient one replica makes a step; null in the forward phase"),
    Column("flops_per_image", "int64", "FLOPs of one forward pass, counted in its graph (1 multiply-add = 2)"),
    Column("train_flops_per_image", "int64", "FLOPs of a forward pass and the backward pass of what is trained"),
    Column("predicted_mem_bytes", "int64", "what a step needs on rank 0's device, from the layers' shapes"),
    Column("peak_flops_per_s", "float64", "FLOP/s that one device can do at most in this precision"),
    Column("peak_source", "string", "where that comes from: a data sheet, or a matrix product timed before"),
    Column("batch_per_device", "int64", "images a device and step"),
    Column("global_batch", "int64", "images all devices and step"),
    Column("num_warmup_batches", "int64", "steps before the timed ones, every rank"),
    Column("num_batches_per_iter", "int64", "steps in one compiled call"),
    Column("num_iters", "int64", "timed iterations asked for"),
    Column("phase", "string", "train: forward and backward pass, exchange, update; forward: the forward pass alone"),
    Column("optimizer", "string", "as in --optimizer; null in the forward phase"),
    Column("learning_rate", "float64", "of the optimizer; null in the forward phase"),
    Column(
        "lr_warmup_epochs", "int64", "in which the learning rate rises to the scaled one; null where it is constant"
    ),
    Column("epochs", "int64", "passes over the data set asked for, at most; null where iterations were"),
    Column("target_accuracy", "float64", "part of the test images at which training was to stop; null without"),
    Column("time_to_accuracy_s", "float64", "evals.train_s of the first evaluation that reached it; null if none did"),
    Column("precision", "string", "arithmetic of the layers: fp64, fp32, bf16, fp16 or tf32"),
    Column("xla", "bool", "forward and backward pass were compiled by XLA"),
    Column("num_nodes", "int64", "hosts"),
    Column("num_processes", "int64", "processes that train or serve"),
    Column("num_ps", "int64", "parameter servers among them"),
    Column(
        "exchange",
        "text_map",
        "the knobs of the gradient exchange that were turned, by flag or by variable (results.knobs): name -> value",
    ),
    Column("variables", "text_map", "the variables that decide how a process computes (results.knobs): name -> value"),
    Column("onednn", "bool", "TensorFlow computed with oneDNN, as the loaded library said; null on GPUs"),
    Column("num_devices", "int64", "replicas that compute gradients"),
    Column("device_kind", "string", "cpu or gpu"),
    Column("device_name", "string", "model name of the GPU or CPU"),
    Column("cores_per_device", "float64", "physical CPU cores that the devices of a node can use / those devices"),
    Column("preloaded", "bool", "forked from a process that had loaded TensorFlow, which shares that memory"),
    Column("intra_op_threads", "int64", "of each process"),
    Column("inter_op_threads", "int64", "of each process"),
    Column("gpu_memory_mib", "int64", "of each logical GPU; null for whole GPUs and CPUs"),
    Column("scaling", "string", "weak (--batch-size) or strong (--global-batch-size)"),
    Column("telemetry_period_s", "float64", "s between two samples"),
    Column("comparability_key", "string", "hash of COMPARABLE_FIELDS: runs that differ in it are never pooled"),
    Column("null_reasons", "text_map", "column -> why it is null"),
    Column("provenance", "provenance", "what ran where: versions, commit, machine, environment"),
    Column("config", "string", "the whole resolved configuration, as JSON"),
)

PROVENANCE = (
    Column("trainscale_version", "string", ""),
    Column("git_commit", "string", "of the checkout that ran"),
    Column("git_dirty", "bool", "the checkout had changes"),
    Column("python_version", "string", ""),
    Column("tensorflow_version", "string", ""),
    Column("tensorflow_git_version", "string", ""),
    Column("keras_version", "string", ""),
    Column("numpy_version", "string", ""),
    Column("cuda_version", "string", "of the CUDA runtime that rank 0 had loaded; null without GPU"),
    Column("cudnn_version", "string", "of the cuDNN that rank 0 had loaded; null without GPU"),
    Column("nccl_version", "string", "of the NCCL that rank 0 had loaded; null without GPU"),
    Column("driver_version", "string", "of the NVIDIA driver"),
    Column("mpi_library", "string", "name and version of the MPI that rank 0 had loaded"),
    Column("horovod_version", "string", "where it was loaded"),
    Column("hostname", "string", "of rank 0"),
    Column("kernel", "string", ""),
    Column("os", "string", ""),
    Column("cpu_model", "string", ""),
    Column("instruction_set", "string", "the vector instructions of rank 0's CPU that kernels are chosen by"),
    Column("cpu_cores", "int64", "physical cores that the job may use on rank 0's host"),
    Column("threads_per_core", "int64", "hardware threads of a physical core of rank 0's host"),
    Column("memory_bytes", "int64", "of rank 0's host"),
    Column("cgroup_cpu_limit", "float64", "cores; null when unlimited"),
    Column("cgroup_memory_limit_bytes", "int64", "null when unlimited"),
    Column("gpus", "gpus", "of rank 0's host"),
    Column("topology", "string", "nvidia-smi topo -m"),
    Column("environment", "text_map", "the variables that are recorded (results.knobs)"),
)

GPU = (
    Column("uuid", "string", ""),
    Column("name", "string", ""),
    Column("memory_bytes", "int64", ""),
    Column("power_limit_w", "float64", ""),
    Column("sm_clock_mhz", "int64", "when the run began"),
    Column("max_sm_clock_mhz", "int64", ""),
)

RANKS = (
    Column("run_id", "string", ""),
    Column("rank", "int64", ""),
    Column("role", "string", "worker, chief or ps"),
    Column("hostname", "string", ""),
    Column("pid", "int64", ""),
    Column("devices", "texts", "the devices of this rank's replicas, as TensorFlow names them"),
    Column("num_devices", "int64", "replicas on this rank; 0 where it only serves or coordinates"),
    Column("cores", "integers", "CPU cores this rank was allowed to run on"),
    Column("intra_op_threads", "int64", ""),
    Column("inter_op_threads", "int64", ""),
    Column("status", "string", "ok, failed, timeout, oom, interrupted or lost"),
    Column("exit_code", "int64", "what the process ended with; null when it left no word"),
    Column("error", "string", "one line; null when ok"),
    Column("phase", "string", "the last phase this rank entered"),
    Column("stacks", "string", "where each of its threads was when a bound passed; null where none did"),
    Column("clock_offset_ns", "int64", "already subtracted from this rank's times: its clock minus rank 0's"),
    Column("import_s", "float64", "process start to frameworks loaded"),
    Column("rendezvous_s", "float64", "devices set up and every peer met"),
    Column("build_s", "float64", "data and model built"),
    Column("trace_s", "float64", "first step: tracing, compiling and running it"),
    Column("warmup_s", "float64", "the other warm-up steps"),
    Column("startup_time_s", "float64", "process start to first timed step"),
    Column("timed_s", "float64", "first to last timed step, evaluations between them included"),
    Column("retraces", "int64", "times the step was traced again after warm-up"),
    Column("weight_digests", "texts", "SHA-256 of the trained weights, a replica each"),
    Column("peak_rss_bytes", "int64", "the operating system's high-water mark of the process"),
    Column(
        "other_cores",
        "float64",
        "CPU time of the node's other processes / time, while timing; of the first rank of each node",
    ),
    Column(
        "framework_peak_mem_bytes", "int64", "TensorFlow allocator's peak after warm-up, largest device of the rank"
    ),
    Column("gpu_peak_mem_used_bytes", "int64", "largest NVML used memory of a GPU of this node while timing"),
)

ITERS = (
    Column("run_id", "string", ""),
    Column("rank", "int64", ""),
    Column("iter", "int64", "counts from 0, warm-up included; of a strategy without steps in common over all ranks"),
    Column("warmup", "bool", "not part of any figure"),
    Column("num_batches", "int64", "steps in this iteration"),
    Column("t_start_ns", "int64", "Unix time on rank 0's clock"),
    Column("duration_s", "float64", "until every device of the rank had finished"),
    Column("data_wait_s", "float64", "part of duration_s in which the rank waited for input"),
    Column(
        "compute_s",
        "float64",
        "part of duration_s from having the batch to having this rank's own gradients, before they are exchanged; of "
        "several replicas the slowest; in the forward phase to having the loss; null where it was not measured",
    ),
    Column("loss", "float64", "mean cross-entropy over the images of this rank in the iteration"),
)

EVALS = (
    Column("run_id", "string", ""),
    Column("epoch", "int64", "that has ended, counted from 1"),
    Column("iter", "int64", "the last iteration before it, as in iters"),
    Column("steps", "int64", "steps so far, warm-up included; of a strategy without steps in common each worker's"),
    Column("images", "int64", "trained so far by all devices, each as often as it was trained"),
    Column("t_ns", "int64", "Unix time on rank 0's clock at which it began"),
    Column("train_s", "float64", "training time so far: iterations on rank 0's clock but the first, no evaluation"),
    Column("eval_s", "float64", "until all ranks' sums were added up; the first traces and compiles"),
    Column("num_correct", "int64", "test images whose largest logit is that of their label"),
    Column("num_samples", "int64", "test images, all of them, each once"),
    Column("accuracy", "float64", "num_correct / num_samples"),
    Column("loss", "float64", "mean cross-entropy of the test images, in inference"),
)

TELEMETRY = (
    Column("run_id", "string", ""),
    Column("rank", "int64", "the rank that sampled"),
    Column("t_ns", "int64", "Unix time on rank 0's clock"),
    Column("gpu_uuid", "string", "null in a sample of the process"),
    Column("gpu_mem_used_bytes", "int64", "NVML used memory, all processes"),
    Column("gpu_util_pct", "float64", "NVML utilisation since the driver's last sample"),
    Column("power_w", "float64", ""),
    Column("energy_j", "float64", "counter since the driver was loaded"),
    Column("sm_clock_mhz", "int64", ""),
    Column("throttle_reasons", "int64", "NVML bit mask; 0 and 1 (idle) are not throttling"),
    Column("temperature_c", "int64", ""),
    Column("ecc_errors", "int64", "uncorrected, since the driver was loaded"),
    Column("rss_bytes", "int64", "of the process"),
    Column("cpu_pct", "float64", "of the process since the last sample; 100 is one core"),
    Column("net_rx_bytes", "int64", "counter of the node, all interfaces; local rank 0 only"),
    Column("net_tx_bytes", "int64", "counter of the node, all interfaces; local rank 0 only"),
)

VERIFICATIONS = (
    Column("verification_id", "string", "unique, sorts by start time: one call of bench.verify"),
    Column("verified_at", "timestamp", "UTC"),
    Column("strategy", "string", ""),
    Column("model", "string", ""),
    Column("image_size", "int64", "height and width of the images [pixels]"),
    Column("num_classes", "int64", "classes that the model tells apart"),
    Column("dataset", "string", ""),
    Column("num_devices", "int64", "replicas that compute gradients"),
    Column("global_batch", "int64", "images all devices and step"),
    Column("precision", "string", "in which it was compared: fp64 or fp32; null in older rows, which are fp32"),
    Column("steps", "int64", "optimizer steps of every replica"),
    Column("verdict", "string", "ok, failed or not run"),
    Column("reason", "string", "what differs, or why it did not run; null when ok"),
    Column("max_loss_difference", "float64", "largest relative difference from single's loss of a step"),
    Column("max_weight_difference", "float64", "largest difference from single's weights / tensor's largest weight"),
    Column("weight_difference", "float64", "norm of the distance from single's weights / of the way that single took"),
    Column("samples_ok", "bool", "every global batch was trained, each sample once"),
    Column("digests_ok", "bool", "all replicas ended with the same weights, bit for bit"),
    Column("updates", "int64", "times the weights were changed; null where workers change them at once"),
    Column("unapplied", "float64", "asynchronous: worst weight's |change - sum of gradients| / sum of their sizes"),
    Column("first_loss", "float64", "mean loss of the first quarter of the steps"),
    Column("last_loss", "float64", "mean loss of the last quarter of the steps"),
    Column("tensorflow_version", "string", ""),
    Column("keras_version", "string", ""),
    Column("horovod_version", "string", ""),
    Column("hostname", "string", ""),
)

TABLES: Mapping[str, tuple[Column, ...]] = {
    "runs": RUNS,
    "ranks": RANKS,
    "iters": ITERS,
    "telemetry": TELEMETRY,
    "evals": EVALS,
    "verifications": VERIFICATIONS,
}

RUN_TABLES = ("runs", "ranks", "iters", "telemetry")
"""Those that every run fills."""

TABLES_OF_SOME_RUNS = ("evals",)
"""Those that only some runs fill: with evaluations, a run by epochs."""

TABLES_OF_RUNS = (*RUN_TABLES, *TABLES_OF_SOME_RUNS)

TRIAL_EXPERIMENT = "find-max-batch"
"""The experiment of the trials of `--find-max-batch`, unless another is given."""

COMPARABLE_FIELDS = (
    "strategy",
    "requested_all_reduce",
    "model",
    "image_size",
    "num_classes",
    "dataset",
    "classes",
    "num_train_samples",
    "freeze",
    "weights",
    "data_digest",
    "sharding",
    "cache",
    "trainable_params",
    "batch_per_device",
    "global_batch",
    "num_batches_per_iter",
    "phase",
    "optimizer",
    "learning_rate",
    "lr_warmup_epochs",
    "epochs",
    "target_accuracy",
    "precision",
    "xla",
    "num_nodes",
    "num_processes",
    "num_ps",
    "exchange",
    "variables",
    "onednn",
    "num_devices",
    "device_kind",
    "device_name",
    "cores_per_device",
    "preloaded",
    "intra_op_threads",
    "inter_op_threads",
    "gpu_memory_mib",
    "scaling",
    "measurement_version",
)
"""What must be equal for two runs to be samples of one thing: the work and the resources, not the software's age."""

FIELDS_OF_A_START = ("num_nodes", "data_digest", "sharding", "trainable_params", "device_name", "preloaded", "onednn")
"""Those of them that nobody knows before the processes have met and built: a run that fails earlier has none."""


def comparability_key(run: Mapping[str, Any]) -> str:
    """16 hex digits over COMPARABLE_FIELDS of a row of `runs`."""
    text = json.dumps([run.get(field) for field in COMPARABLE_FIELDS], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache
def arrow_schema(table: str) -> pa.Schema:
    """The Arrow schema of one of TABLES."""
    import pyarrow as pa

    return pa.schema([(column.name, _arrow_type(column.kind)) for column in TABLES[table]])


def _arrow_type(kind: str) -> pa.DataType:
    import pyarrow as pa

    if kind == "timestamp":
        return pa.timestamp("us", tz="UTC")
    if kind == "text_map":
        return pa.map_(pa.string(), pa.string())
    if kind == "texts":
        return pa.list_(pa.string())
    if kind == "integers":
        return pa.list_(pa.int64())
    if kind == "gpus":
        return pa.list_(_struct(GPU))
    if kind == "provenance":
        return _struct(PROVENANCE)
    return pa.type_for_alias(kind)


def _struct(columns: tuple[Column, ...]) -> pa.DataType:
    import pyarrow as pa

    return pa.struct([(column.name, _arrow_type(column.kind)) for column in columns])
