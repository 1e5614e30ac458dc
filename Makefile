# Thin names; each prints the command that works without make.
# PYTHON picks the interpreter (3.11 or newer); everything is installed into .venv, once.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-cluster lint format types benchmarks charts proto constraints clean

help:  ## list what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

install: $(INSTALLED)  ## make .venv and install everything into it

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@echo "==> installing fedfleet into .venv with $$($(PYTHON) --version): about 2 minutes, torch is the largest part"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e '.[dev]'
	@touch $(INSTALLED)
	@echo "==> installed; next time this is skipped"

demo: $(INSTALLED)  ## a real federation on this computer: three sites learn handwritten digits
	@echo "==> fl demo (without make: .venv/bin/fl demo)"
	@$(BIN)/fl demo

test: $(INSTALLED)  ## the fast suite, in under 3 minutes
	@echo "==> pytest (without make: .venv/bin/pytest)"
	@$(BIN)/pytest -q -n 2 --dist worksteal

test-all: $(INSTALLED)  ## every test that this machine can run
	@bash .ci/run

test-cluster: $(INSTALLED)  ## the tests on a genuine Kubernetes; root on Debian 12
	@bash .ci/cluster

lint: $(INSTALLED)  ## ruff, import contracts, mypy --strict, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/codespell fl server edge simulations docs benchmarks examples README.md ARCHITECTURE.md CONTRIBUTING.md CHANGELOG.md SECURITY.md

format: $(INSTALLED)  ## let ruff write the code its way
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmarks: $(INSTALLED)  ## the numbers of the README, measured side by side
	$(BIN)/python -m benchmarks.rounds
	$(BIN)/python -m benchmarks.secagg
	$(BIN)/python -m benchmarks.simulation
	$(BIN)/python -m benchmarks.link
	$(BIN)/python -m benchmarks.control
	test "$$(id -u)" -ne 0 || $(BIN)/python -m benchmarks.fleet

charts: $(INSTALLED)  ## values, schemas, references and golden files of the Helm charts, made anew
	$(BIN)/python helm/make.py
	$(BIN)/python helm/golden.py

proto:  ## generate fl/link/*_pb2* from link.proto, in an environment of its own
	test -x .fedfleet/proto/bin/python || $(PYTHON) -m venv .fedfleet/proto
	.fedfleet/proto/bin/python -m pip install --disable-pip-version-check -q grpcio-tools==1.81.1 mypy-protobuf==5.1.0
	PATH=.fedfleet/proto/bin:$$PATH .fedfleet/proto/bin/python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. \
		--mypy_out=. --mypy_grpc_out=. fl/link/link.proto

constraints:  ## resolve all versions anew into constraints.txt
	rm -rf .venv && $(PYTHON) -m venv .venv && $(BIN)/pip install -e '.[dev]'
	{ head -2 constraints.txt; $(BIN)/pip list --format=freeze | grep -viE '^(fedfleet|pip|setuptools)=' | sed 's/+cpu//' | sort -f; } > constraints.new
	mv constraints.new constraints.txt

clean:  ## remove .venv and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
