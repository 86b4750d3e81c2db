# Two commands: `make demo` measures and draws, `make test` proves. Both do their own set-up, once.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: setup demo test fuzz faults packages perf soak audit lock clean

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml jobs/build_horovod.py
	$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' \
		|| { echo "TrainScale needs Python 3.10 to 3.13 (make PYTHON=python3.12 ...)"; exit 3; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	jobs/install_packages.sh g++=g++
	$(PY) -m jobs.build_horovod || echo "Everything but --strategy horovod works without it."
	touch $@

demo: setup
	@name=demo-$$(date +%Y%m%d-%H%M%S) && \
	{ $(PY) -m jobs.sweep jobs/sweeps/demo.toml --experiment $$name; swept=$$?; } && \
	$(PY) -m analysis.report --experiment $$name --output results/reports/$$name --format html,png && exit $$swept

test: packages setup
	tests/browser/install_chromium.sh
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	$(PY) -m pytest

# Input that nobody meant, new at every call: for minutes, where `make test` tries the same few hundred examples of each.
fuzz: setup
	$(PY) -m pytest tests/fuzz --hypothesis-profile=long --timeout=0

# A Slurm for the tests to start, where root may install it.
packages:
	jobs/install_packages.sh ip=iproute2 munged=munge "slurmd=slurmctld slurmd slurm-client libpmix-dev"

# Figures that need a quiet machine: what the loop, the telemetry, input and size cost. And how often the verdicts are right.
perf: setup
	$(PY) -m tests.perf.overhead
	$(PY) -m tests.perf.horovod_script
	$(PY) -m tests.perf.input_pipeline
	$(PY) -m tests.perf.scale
	$(PY) -m tests.perf.analysis_scale
	$(PY) -m tests.perf.gate
	$(PY) -m tests.perf.change_points
	$(PY) -m tests.perf.freezing
	$(PY) -m tests.perf.memory

# Every fault under every strategy; writes the table of docs/faults.md anew.
faults: setup
	WRITE_FAULTS=1 $(PY) -m pytest tests/processes/test_faults.py

# An hour of runs on a quiet machine: does anything grow or stay behind?
soak: setup
	$(PY) -m tests.perf.soak

# Asks PyPI's database of vulnerabilities for every pin; needs the internet, and says so where it cannot be asked.
audit:
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	.venv/audit/bin/pip-audit --strict --disable-pip --require-hashes -r requirements.lock

# After a change of the dependencies; needs uv.
lock:
	uv pip compile --universal --python-version 3.10 --generate-hashes --extra dev --extra mpi --extra horovod --no-header --no-annotate \
		pyproject.toml -o requirements.lock

clean:
	rm -rf .venv *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
