# `make demo` measures and draws, `make test` proves, `make check` is its quick part. All do their own set-up, once.
PYTHON ?= python3
PY := .venv/bin/python
SPREAD := -p tests.scheduling
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check

.PHONY: setup interpreter announcement demo check test fuzz faults packages perf soak audit matrix lock clean

setup: .venv/.ready

# A PYTHON that is given must be that of an environment that is there.
interpreter:
	@[ "$(origin PYTHON)" = file ] || [ ! -e $(PY) ] || $(PYTHON) jobs/check_python.py $(PY)

# What measures and draws, without Horovod, whose build takes minutes and a compiler.
.venv/.packages: requirements.lock pyproject.toml jobs/check_python.py | interpreter
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on PATH: name a Python 3.10 to 3.13, as make PYTHON=python3.11" >&2; exit 3; }
	@$(PYTHON) jobs/check_python.py
	$(PYTHON) -m venv .venv
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-deps --no-build-isolation -e .
	touch $@

.venv/.ready: .venv/.packages jobs/build_horovod.py
	jobs/install_packages.sh g++
	@# Exit code 3: it cannot be built here. Whatever else ends it, Ctrl-C say, ends the set-up.
	$(PY) -m jobs.build_horovod || { [ $$? = 3 ] && echo "Everything but --strategy horovod works without it."; }
	touch $@

# What checks and tests; its lock holds all of requirements.lock too.
.venv/.tests: .venv/.ready requirements-dev.lock
	$(INSTALL) --require-hashes -r requirements-dev.lock
	touch $@

announcement:
	@echo "Measures 42 runs, 7 strategies on 2 models, in about 4 minutes on a 2-core virtual machine; then a table and a report."
	@[ -e .venv/.ready ] || echo "Before that, once: the set-up of .venv, 3 minutes; after 12 runs, unless its wheel is kept: the build of Horovod, 5 minutes."

# A first set-up builds Horovod between runs: beside them it would be measured too.
demo: announcement .venv/.packages
	@name=demo-$$(date +%Y%m%d-%H%M%S) && sweep="$(PY) -m jobs.sweep jobs/sweeps/demo.toml --experiment $$name" && \
	{ [ -e .venv/.ready ] || $$sweep --max-repeats 1 --only '[!h]*'; $(MAKE) --no-print-directory setup; } && \
	{ $$sweep; swept=$$?; } && \
	$(PY) -m analysis.report --experiment $$name --output results/reports/$$name --format html,png && exit $$swept

# Linters, types, and the tests that load no framework and start no process.
check: .venv/.tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	$(PY) -m pytest -m quick -n 2 $(SPREAD)

test: packages check
	tests/browser/install_chromium.sh
	$(PY) -m pytest -m "not quick" -n 2 $(SPREAD)

# Input that nobody meant, new at every call: for minutes, where `make test` tries the same fifty examples of each.
fuzz: .venv/.tests
	$(PY) -m pytest tests/fuzz --hypothesis-profile=long --timeout=0

# A Slurm for the tests to start, where root may install it.
packages:
	jobs/install_packages.sh ip munged slurmd

# Figures that need a quiet machine: what the loop, the telemetry, input and size cost. And how often the verdicts are right.
perf: .venv/.tests
	$(PY) -m tests.perf.overhead
	$(PY) -m tests.perf.horovod_script
	$(PY) -m tests.perf.input_pipeline
	$(PY) -m tests.perf.scale
	$(PY) -m tests.perf.analysis_scale
	$(PY) -m tests.perf.gate
	$(PY) -m tests.perf.change_points
	$(PY) -m tests.perf.freezing
	$(PY) -m tests.perf.memory
	$(PY) -m tests.perf.allocator
	$(PY) -m tests.perf.proof

# Every fault under every strategy; writes the table of docs/faults.md anew.
faults: .venv/.tests
	WRITE_FAULTS=1 $(PY) -m pytest tests/processes/test_faults.py

# An hour of runs on a quiet machine: does anything grow or stay behind?
soak: .venv/.tests
	$(PY) -m tests.perf.soak

# Asks PyPI's database of vulnerabilities for every pin; needs the internet, and says so where it cannot be asked.
audit:
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	.venv/audit/bin/pip-audit --strict --disable-pip --require-hashes -r requirements-dev.lock

# The oldest and the newest packages that pyproject.toml allows, on the oldest and the newest Python that is here, in
# environments of their own under .matrix; needs the internet, 8 GB, and half an hour.
matrix: .venv/.tests
	$(PY) -m tests.versions

# After a change of the dependencies; needs uv.
COMPILE := uv pip compile --universal --python-version 3.10 --generate-hashes --extra mpi --extra horovod --no-header --no-annotate
lock:
	$(COMPILE) pyproject.toml -o requirements.lock
	$(COMPILE) --extra dev --constraint requirements.lock pyproject.toml -o requirements-dev.lock

clean:
	rm -rf .venv .matrix *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
