"""Tests: one module a module, `processes/` with real workers, `browser/` with a real Chromium, `perf/` with ratios."""
