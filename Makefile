# Everything a contributor or CI runs.  `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
JAR := src/confide/data/confide-spark.jar
ARCHIVE := src/confide/data/confide-spark.jsa
JAVA_SOURCES := $(shell find java -type f)

.DEFAULT_GOAL := help
.PHONY: help setup test-packages jar demo test test-cluster quick-test fuzz mutation dataset-mutations dataset-kills run-kills lint docs-check tpch bench lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready $(JAR) $(ARCHIVE) ## virtual environment from the lock, Java, the Spark jar, its class-data archive

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

test-packages: $(VENV)/.ready ## what tests run against: a software TPM, a software HSM, guests' firmware, PostgreSQL, an OpenID provider, systemd, Buildah, Chromium, newer Javas
	scripts/install_tpm.sh
	scripts/install_softhsm.sh
	scripts/install_ovmf.sh
	scripts/install_postgres.sh
	scripts/install_oidc.sh
	scripts/install_systemd.sh
	scripts/install_buildah.sh
	scripts/install_chromium.sh
	scripts/install_newer_javas.sh

jar: $(JAR) ## the small Java part, compiled against the Spark jars that pip installed

$(JAR): $(VENV)/.ready $(JAVA_SOURCES) scripts/build_jar.py
	scripts/install_java.sh
	$(BIN)/python scripts/build_jar.py

# JVMs start in a third of the time with it.  It holds for one JVM and one class path, so it is made here, once.
$(ARCHIVE): $(JAR)
	$(BIN)/python -m confide.jobs.engines.archive

demo: setup ## the whole story on real data in under a minute
	$(BIN)/confide demo

test: setup test-packages ## every test, with branch coverage of everything that runs (command line and child processes included)
	$(BIN)/coverage erase
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadgroup --durations=50 --durations-min=10 --cov --cov-report=term:skip-covered

test-cluster: setup test-packages ## runs on a real Kubernetes of the tests' own (root; builds it first: minutes, once)
	scripts/install_cluster.sh
	cd tests && ../$(BIN)/python -m cluster.servers
	$(BIN)/pytest -n 3 --dist loadgroup --durations=15 tests/cluster

quick-test: setup test-packages ## the tests that start no Java and no run
	$(BIN)/pytest -m 'not spark and not run and not slow'

FUZZ_SECONDS ?= 45
fuzz: setup ## coverage-guided search of every parser of outside bytes, FUZZ_SECONDS in all
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

mutation: setup ## change one decision of attest/ at a time: does a test notice?  (see docs/security/mutation-testing.md)
	$(BIN)/python -m scripts.mutation

DATASET_MUTATIONS ?= 100000
dataset-mutations: setup ## change the files of a dataset, one byte at a time, DATASET_MUTATIONS times: does each layer refuse it?
	$(BIN)/python -m scripts.dataset_mutations --count $(DATASET_MUTATIONS)

dataset-kills: setup ## kill -9 of whoever writes a dataset, at every system call
	$(BIN)/python -m scripts.dataset_kills

RUN_KILLS ?= 100
run-kills: setup ## kill -9 of executors, drivers and their agents at RUN_KILLS random moments of runs
	$(BIN)/python -m scripts.run_kills --count $(RUN_KILLS)

lint: $(VENV)/.ready ## ruff, mypy strict, import contracts, documentation
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/check_docs.py

docs-check: setup ## README blocks against the real program
	$(BIN)/python scripts/check_readme.py

tpch: setup ## TPC-H's 22 queries at scale factor 1 over encrypted tables against the right answers
	$(BIN)/python -m benchmarks.tpch

bench: setup ## the figures of docs/benchmarks.md, side by side
	$(BIN)/python -m benchmarks spine --write
	$(BIN)/python -m benchmarks broker --write
	$(BIN)/python -m benchmarks data --write

lock: ## write requirements.lock anew from pyproject.toml
	scripts/lock.sh

clean: ## remove what the targets above made
	rm -rf $(VENV) $(JAR) $(ARCHIVE) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* htmlcov .mutation.json
