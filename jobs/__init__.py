"""Processes on machines: who am I (`cluster`), start local workers (`launch`), run a matrix of benchmarks (`sweep`)."""

from results.third_party import explain_failed_imports

explain_failed_imports()
