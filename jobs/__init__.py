"""Processes on machines: who am I (`cluster`), start local workers (`launch`), run a matrix of benchmarks (`sweep`)."""
