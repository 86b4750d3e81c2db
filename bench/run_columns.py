"""Columns of `runs` that only a process that trains can tell: of the data, the model, the exchange, and what a step
costs in arithmetic and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench import provenance
from bench.peaks import measured_peak, sheet_peak
from bench.plan import Plan
from bench.workloads.memory import Prediction, predict
from strategies.base import Data, Trainer

_DTYPES = {"fp64": "float64", "fp32": "float32", "tf32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Precision -> what TensorFlow calls the numbers; TF32 is a property of the device."""

_FLOPS = ("flops_per_image", "train_flops_per_image")


def of_data(data: Data, readers: int) -> dict[str, Any]:
    """Fields of `runs`; `readers` share the data."""
    fields = {"data_digest": data.digest, "sharding": data.sharding(readers)}
    in_memory = "the data set's name says which images it holds, and every process holds all of them"
    reasons = {name: in_memory for name, value in fields.items() if value is None}
    return {"num_samples": data.num_samples, **fields, "null_reasons": reasons}


def of_exchange(plan: Plan, all_reduce: str | None) -> dict[str, Any]:
    """Fields of `runs`; `all_reduce` as `strategies.base.Trainer` has it."""
    strategy = plan.strategy
    alone = "one replica has nobody to exchange with"
    why = alone if strategy.requested_all_reduce else f"strategy {strategy.name!r} has no all-reduce"
    reasons = {} if all_reduce or plan.forward else {"actual_all_reduce": why}
    return {"actual_all_reduce": all_reduce, "null_reasons": reasons}


def of_libraries(plan: Plan) -> dict[str, Any]:
    """Fields of `runs`, once the training has loaded all that it uses."""
    fields, reasons = provenance.of_libraries(plan.strategy.resources.device_kind)
    return {"provenance": fields, "null_reasons": reasons}


def of_onednn() -> dict[str, Any]:
    """Fields of `runs`, of a run on CPUs."""
    from strategies.devices import onednn_is_on

    return {"onednn": onednn_is_on()}


def of_weights(plan: Plan, model: Any) -> dict[str, Any]:
    """Fields of `runs`."""
    trained = [variable.value for variable in model.trainable_variables]
    sizes = [int(weight.shape.num_elements()) for weight in trained]
    gradients = sum(size * weight.dtype.size for size, weight in zip(sizes, trained, strict=True))
    return {
        "num_params": int(model.count_params()),
        "trainable_params": sum(sizes),
        "gradient_bytes": None if plan.forward else gradients,
    }


def of_arithmetic(plan: Plan, model: Any) -> dict[str, Any]:
    """Fields of `runs`."""
    from bench.workloads.arithmetic import Uncounted, count_flops

    try:
        found = count_flops(model)
    except Uncounted as why:
        return {**dict.fromkeys(_FLOPS), "null_reasons": dict.fromkeys(_FLOPS, str(why))}
    if plan.forward:
        reason = {"train_flops_per_image": "the forward phase has no backward pass"}
        return {"flops_per_image": found.forward, "train_flops_per_image": None, "null_reasons": reason}
    return {"flops_per_image": found.forward, "train_flops_per_image": found.train}


def of_peak(plan: Plan, gpu_names: Sequence[str | None]) -> dict[str, Any]:
    """Fields of `runs`, as a process with replicas can tell them; `gpu_names` are its GPUs, as NVML calls them. Takes a
    second with --measure-peak, in which nobody else should use the device."""
    strategy = plan.strategy
    kind, precision = strategy.resources.device_kind, strategy.numerics.precision
    peak, share = None, 1
    if plan.config.measure.measure_peak:
        peak = measured_peak(f"{kind.upper()}:0", _DTYPES[precision])
        # The product had all threads of the process, which its replicas share.
        share = strategy.local_replicas if kind == "cpu" else 1
        why = ""
    elif kind == "cpu":
        why = "no table holds CPUs: --measure-peak times a matrix product"
    elif strategy.resources.gpu_memory_mib:
        why = "replicas share a GPU, and nobody knows how"
    else:
        name = next(iter(gpu_names), None) or "a GPU without a name"
        peak = sheet_peak(name, precision)
        why = f"no data sheet of {name} in {precision} is known here: --measure-peak times a matrix product"
    if peak is None:
        return {
            "peak_flops_per_s": None,
            "peak_source": None,
            "null_reasons": dict.fromkeys(("peak_flops_per_s", "peak_source"), why),
        }
    return {"peak_flops_per_s": peak.flops_per_s / share, "peak_source": peak.source}


def of_memory(plan: Plan, trainer: Trainer, held_bytes: int) -> dict[str, Any]:
    """Fields of `runs`, of the first device of this process. `held_bytes` as `strategies.base.Data` has them."""
    prediction = _prediction(plan, trainer, held_bytes)
    if isinstance(prediction, str):
        return {"predicted_mem_bytes": None, "null_reasons": {"predicted_mem_bytes": prediction}}
    return {"predicted_mem_bytes": prediction.total}


def _prediction(plan: Plan, trainer: Trainer, held_bytes: int) -> Prediction | str:
    from strategies.devices import onednn_is_on

    strategy = plan.strategy
    slot_bytes = trainer.slot_bytes()
    if slot_bytes is None or not strategy.local_replicas:
        return "rank 0 computes no gradients itself"
    on_cpu = strategy.resources.device_kind == "cpu"
    if on_cpu and strategy.local_replicas > 1:
        return "the replicas of rank 0 share the CPU's memory, which TensorFlow counts as one"
    if strategy.numerics.precision == "fp64":
        return "no prediction was measured against a run in float64"
    if strategy.numerics.xla:
        return "XLA joins layers and plans their memory by itself"
    exchanged = strategy.requested_all_reduce is not None and plan.num_devices > 1
    found = predict(
        trainer.model,
        batch=plan.batch_per_device,
        train=plan.config.training.phase == "train",
        slot_bytes=slot_bytes,
        held_bytes=held_bytes if on_cpu else 0,
        together=exchanged or strategy.numerics.precision == "fp16",
        kernels="cudnn" if not on_cpu else "onednn" if onednn_is_on() else "eigen",
        threads=strategy.resources.intra_op_threads or 1,
    )
    return found or "the model holds a layer whose memory is not known"
