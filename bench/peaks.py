"""How many FLOP/s a device can do at most: by its maker's data sheet, or by a matrix product that is timed here.

The model FLOPs of a step / its time / this peak are the model FLOPs utilisation (MFU), as torchtitan and maxtext define
it. A sheet gives what no program reaches, a matrix product what one does: `runs.peak_source` says which of the two
stands in a record. Loads no framework until a product is timed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

_TERA = 1e12

_SMALLEST, _LARGEST = 256, 16384
"""Rows of a matrix. The largest three in float32 are 3 GiB."""

_LONG_ENOUGH_S = 0.05
"""A product of this length makes what it costs to start one vanish."""

_MEASURED_S = 1.0
_FEWEST_PRODUCTS = 3

_NO_MODEL = re.compile(r"NVIDIA|Tesla|GeForce|\d+GB", re.IGNORECASE)
"""Words of a device's name that say nothing of its arithmetic."""


@dataclass(frozen=True)
class Sheet:
    """What a data sheet promises of one device, in dense TFLOP/s; None where it has no such arithmetic, or where its
    maker's papers contradict each other."""

    model: str
    """All words of NVML's name of the device, without maker and memory."""
    document: str
    fp32: float | None
    """Outside of tensor cores: with them it is called tf32 here."""
    tf32: float | None
    fp16: float | None
    """Of tensor cores that add up in float32; of Pascal, which has none, of its paired halves."""
    bf16: float | None


# NVIDIA, "data sheet" or "whitepaper" of each. Where they print the figure for sparse matrices alone (L4, Hopper,
# Blackwell) this is half of it, as their footnotes say.
SHEETS = (
    Sheet("P100 SXM2", "Tesla P100 data sheet", 10.6, None, 21.2, None),
    Sheet("P100 PCIE", "Tesla P100 data sheet", 9.3, None, 18.7, None),
    Sheet("V100 SXM2", "V100 data sheet", 15.7, None, 125, None),
    Sheet("V100 PCIE", "V100 data sheet", 14, None, 112, None),
    Sheet("V100S PCIE", "V100 data sheet", 16.4, None, 130, None),
    Sheet("T4", "T4 data sheet", 8.1, None, 65, None),
    Sheet("A100 SXM4", "A100 data sheet", 19.5, 156, 312, 312),
    Sheet("A100 PCIE", "A100 data sheet", 19.5, 156, 312, 312),
    Sheet("A10", "A10 data sheet", 31.2, 62.5, 125, 125),
    Sheet("A30", "A30 data sheet", 10.3, 82, 165, 165),
    Sheet("A40", "A40 data sheet", 37.4, 74.8, 149.7, 149.7),
    Sheet("L4", "L4 data sheet", 30.3, 60, 121, 121),
    Sheet("L40", "L40 data sheet", 90.5, 90.5, 181.05, 181.05),
    Sheet("L40S", "L40S data sheet", 91.6, 183, 362.05, 362.05),
    Sheet("H100 HBM3", "H100 data sheet, SXM", 67, 494.5, 989.5, 989.5),
    Sheet("H100 PCIe", "H100 data sheet, PCIe", 51, 378, 756.5, 756.5),
    Sheet("H100 NVL", "H100 data sheet, NVL", 60, 417.5, 835.5, 835.5),
    Sheet("H200", "H200 data sheet, SXM", 67, 494.5, 989.5, 989.5),
    Sheet("H200 NVL", "H200 data sheet, NVL", 60, 417.5, 835.5, 835.5),
    Sheet("B200", "HGX B200 data sheet", None, None, 2250, 2250),
    Sheet("RTX 3090", "GA102 whitepaper", 35.6, 35.6, 71, 71),
    Sheet("RTX 4090", "Ada whitepaper", 82.6, 82.6, 165.2, 165.2),
)


@dataclass(frozen=True)
class Peak:
    """FLOP/s of one device in one precision, and where they come from."""

    flops_per_s: float
    source: str


def sheet_peak(device_name: str, precision: str) -> Peak | None:
    """What the device's data sheet says; None for a device that is not in SHEETS under exactly this name: a laptop's
    chip, a part of a GPU (MIG) or another maker's board is called like a faster one."""
    words = sorted(word.upper() for word in re.split(r"[\s-]+", device_name) if not _NO_MODEL.fullmatch(word))
    for sheet in SHEETS:
        if sorted(sheet.model.upper().split()) == words:
            tera: float | None = getattr(sheet, precision, None)
            return None if tera is None else Peak(tera * _TERA, f"table: NVIDIA {sheet.document}")
    return None


def measured_peak(device: str, dtype: str) -> Peak:
    """What a matrix product reaches on a device of this process, with all threads that the process may use, in about a
    second. `dtype` is TensorFlow's name. Loads TensorFlow."""
    import tensorflow as tf

    def seconds_of(size: int) -> Callable[[], float]:
        with tf.device(device):
            matrix = tf.cast(tf.random.stateless_uniform([size, size], (1, size), -1.0, 1.0), dtype)

        def product() -> float:
            began = time.perf_counter()
            with tf.device(device):
                result = tf.linalg.matmul(matrix, matrix)
                # Of a product on a GPU nothing but a value that the CPU asks for says that it is done.
                result[0, 0].numpy()
            return time.perf_counter() - began

        return product

    rate, size = best_product(seconds_of)
    return Peak(rate, f"measured: matrix product n={size}")


def best_product(products: Callable[[int], Callable[[], float]]) -> tuple[float, int]:
    """(FLOP/s of the fastest product of two square matrices, its rows). `products`: rows -> what multiplies and says
    how many seconds that took.

    Sizes double until a product takes long enough to be timed; then as many are made as fit into a second.
    """
    size = _SMALLEST
    while True:
        product = products(size)
        product()  # the first one sets up the library
        seconds = product()
        if seconds >= _LONG_ENOUGH_S or size == _LARGEST:
            break
        size *= 2
    count = max(_FEWEST_PRODUCTS, int(_MEASURED_S / seconds))
    fastest = min([seconds, *(product() for _ in range(count))])
    return 2 * size**3 / fastest, size
