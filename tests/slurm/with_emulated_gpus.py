"""`python -m tests.slurm.with_emulated_gpus COUNT MODULE ...`: runs a module of ours with COUNT emulated GPUs."""

from __future__ import annotations

import runpy
import sys

import pynvml

from tests.emulated_nvml import H200, Driver

count, module = int(sys.argv[1]), sys.argv[2]
pynvml.nvmlLib = Driver([H200 | {"uuid": f"GPU-{index}".encode()} for index in range(count)])
sys.argv = sys.argv[2:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
