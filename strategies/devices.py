"""TensorFlow's devices for one process: threads, logical devices, memory. Loads TensorFlow."""

from __future__ import annotations

import os

import tensorflow as tf

from bench.errors import EnvironmentFault
from strategies.base import NumericsConfig, Resources

CPU_ALLOCATOR = ("TF_CPU_ALLOCATOR_USE_BFC", "TF_CPU_BFC_MEM_LIMIT_IN_MB")
"""The variables by which TensorFlow chooses its CPU allocator, when it first touches the CPU."""


def configure(resources: Resources, replicas: int, numerics: NumericsConfig) -> list[str]:
    """Prepares `replicas` devices and returns their names, such as CPU:0. Without replicas, GPUs are left alone.

    Must run before TensorFlow touches a device. CPU replicas are logical devices of the one CPU and share its threads.
    With `gpu_memory_mib` GPUs are cut into logical ones of that size. Raises EnvironmentFault where TensorFlow does
    not see the GPUs that the driver shows: to go on with the CPU would measure something else.
    """
    _keep_cpu_memory_statistics()
    tf.config.threading.set_intra_op_parallelism_threads(resources.intra_op_threads)
    tf.config.threading.set_inter_op_parallelism_threads(resources.inter_op_threads)
    # float32 means float32: left alone, TensorFlow would use TF32 on Ampere and later.
    tf.config.experimental.enable_tensor_float_32_execution(numerics.precision == "tf32")
    if resources.device_kind == "cpu" or not replicas:
        tf.config.set_visible_devices([], "GPU")
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * max(1, replicas))
        return [f"CPU:{index}" for index in range(replicas)]
    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) < resources.num_gpus:
        raise EnvironmentFault(
            f"the driver shows {resources.num_gpus} GPU(s) but TensorFlow sees {len(gpus)}: install its CUDA libraries "
            "(pip install -e '.[cuda]'), or measure the CPU with --device cpu"
        )
    shares = {gpu: share for gpu, share in zip(gpus, _shares(replicas, len(gpus)), strict=True) if share}
    tf.config.set_visible_devices(list(shares), "GPU")
    for gpu, share in shares.items():
        if resources.gpu_memory_mib:
            logical = tf.config.LogicalDeviceConfiguration(memory_limit=resources.gpu_memory_mib)
            tf.config.set_logical_device_configuration(gpu, [logical] * share)
        else:
            # Without growth TensorFlow takes all memory at once and NVML can't show what the training needs.
            tf.config.experimental.set_memory_growth(gpu, True)
    return [f"GPU:{index}" for index in range(replicas)]


def onednn_is_on() -> bool:
    """Return whether the loaded TensorFlow computes with oneDNN, which depends on the CPU and TF_ENABLE_ONEDNN_OPTS."""
    from tensorflow.python.util import _pywrap_util_port  # no public name

    return bool(_pywrap_util_port.IsMklEnabled())


def _keep_cpu_memory_statistics() -> None:
    """Choose a CPU allocator that counts what it hands out, unless the environment chooses another.

    With oneDNN that is TensorFlow's default. Without, TensorFlow takes one that counts nothing, so that no peak could
    be measured; the one chosen here costs no speed that can be measured (tests/perf/allocator.py).
    """
    try:
        if onednn_is_on():
            return
    except (ImportError, AttributeError):  # a TensorFlow that has renamed it, to which the choice does no harm either
        pass
    use_bfc, limit_mib = CPU_ALLOCATOR
    if os.environ.setdefault(use_bfc, "1") == "1":
        # TensorFlow's default limit is 64 GiB, whatever the host has.
        host_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        os.environ.setdefault(limit_mib, str(host_bytes >> 20))


def _shares(replicas: int, gpus: int) -> list[int]:
    """How many replicas each GPU gets; without memory-limited GPUs there are never more replicas than GPUs."""
    return [replicas // gpus + (index < replicas % gpus) for index in range(gpus)]
