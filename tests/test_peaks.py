from __future__ import annotations

import pytest

from bench.peaks import SHEETS, Peak, best_product, sheet_peak


@pytest.mark.parametrize(
    ("name", "precision", "tera"),
    [
        ("Tesla P100-PCIE-16GB", "fp32", 9.3),
        ("Tesla P100-SXM2-16GB", "fp16", 21.2),
        ("Tesla V100-SXM2-32GB", "fp16", 125),
        ("Tesla V100-PCIE-16GB", "fp32", 14),
        ("Tesla T4", "fp16", 65),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156),
        ("A100-SXM4-40GB", "bf16", 312),
        ("NVIDIA A100 80GB PCIe", "fp32", 19.5),
        ("NVIDIA A10", "bf16", 125),
        ("NVIDIA L40S", "fp16", 362.05),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5),
        ("NVIDIA H100 PCIe", "tf32", 378),
        ("NVIDIA H100 NVL", "bf16", 835.5),
        ("NVIDIA H200", "fp32", 67),
        ("NVIDIA H200 NVL", "fp32", 60),
        ("NVIDIA B200", "bf16", 2250),
        ("NVIDIA GeForce RTX 4090", "fp16", 165.2),
    ],
)
def test_a_device_is_known_by_nvmls_name(name: str, precision: str, tera: float) -> None:
    found = sheet_peak(name, precision)
    assert found is not None
    assert found.flops_per_s == pytest.approx(tera * 1e12)
    assert found.source.startswith("table: NVIDIA ")


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("NVIDIA A10G", "fp32"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "fp32"),
        ("NVIDIA GeForce RTX 4090 D", "fp32"),
        ("NVIDIA GeForce RTX 3090 Ti", "fp32"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "fp32"),
        ("NVIDIA GH200 480GB", "bf16"),
        ("AMD Instinct MI300X", "bf16"),
        ("", "fp32"),
        ("Tesla T4", "bf16"),
        ("Tesla V100-SXM2-32GB", "tf32"),
        ("NVIDIA B200", "fp32"),
        ("NVIDIA H200", "fp64"),
    ],
)
def test_another_device_or_arithmetic_that_it_lacks_is_unknown(name: str, precision: str) -> None:
    assert sheet_peak(name, precision) is None


def test_every_row_makes_sense() -> None:
    assert len({sheet.model for sheet in SHEETS}) == len(SHEETS)
    for sheet in SHEETS:
        assert sheet_peak(sheet.model, "fp16") == Peak(sheet.fp16 * 1e12, f"table: NVIDIA {sheet.document}")  # type: ignore[operator]
        # Narrower numbers are never slower, and nothing but tensor cores makes them more than twice as fast as tf32.
        known = [tera for tera in (sheet.fp32, sheet.tf32, sheet.bf16 or sheet.fp16) if tera is not None]
        assert known == sorted(known), sheet.model
        assert sheet.tf32 is None or sheet.bf16 == pytest.approx(2 * sheet.tf32, rel=0.02), sheet.model


class Device:
    """Multiplies at a rate that grows with the matrices up to a peak, and is disturbed every other time."""

    def __init__(self, peak: float) -> None:
        self.peak, self.products, self.spent_s = peak, 0, 0.0

    def __call__(self, size: int):  # type: ignore[no-untyped-def]
        def product() -> float:
            self.products += 1
            seconds = 2 * size**3 / self.peak + 1e-4
            seconds *= 1 + self.products % 2
            self.spent_s += seconds
            return seconds

        return product


@pytest.mark.parametrize(("peak", "size"), [(5e9, 512), (80e9, 2048), (60e12, 16384), (2e15, 16384)])
def test_the_fastest_product_of_a_size_that_can_be_timed_counts(peak: float, size: int) -> None:
    device = Device(peak)
    rate, found = best_product(device)
    assert found == size
    assert rate == pytest.approx(peak, rel=0.03)
    assert rate < peak
    assert device.spent_s < 3


def test_of_a_slow_device_a_few_products_must_do() -> None:
    device = Device(1e7)
    rate, size = best_product(device)
    assert (size, device.products) == (256, 5)
    assert rate == pytest.approx(1e7, rel=0.01)
