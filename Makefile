SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

BIN := .venv/bin

.PHONY: help demo test test-engine test-others chaos scale fleet fleet-faults fuzz bench test-tools unit lint setup engine base-image examples reference docs lock clean
.PHONY: test-install wheels deb check-arm64 image postgres-image

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup ## run the three examples on real input; fernd up stays until Ctrl-C (ONCE=1: ends by itself)
	@$(BIN)/python examples/demo.py $(if $(ONCE),--once)

test: setup lint base-image test-tools ## everything: lint, and all tests with the real engine, with a short run of the faults
	@$(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync=target test-engine test-others

# Tests on the engine mostly wait for it, and the others leave it alone: side by side they take hardly longer than
# the first alone.
test-engine: setup base-image test-tools ## the tests that need the Docker Engine, but for the faults
	@$(BIN)/pytest -m 'engine and not chaos and not long' -o cache_dir=.pytest_cache/engine

test-others: setup base-image test-tools ## all the other tests, then the short run of the faults
	@failed=0; \
	$(BIN)/pytest -m 'not engine and not long' -o cache_dir=.pytest_cache/others || failed=1; \
	$(BIN)/pytest -m 'chaos and not long' -o cache_dir=.pytest_cache/chaos || failed=1; \
	exit $$failed

chaos: setup base-image test-tools ## the faults of tests/chaos at full length: ROUNDS=10 of random harm, SEED= repeats a run
	@ROUNDS=$(or $(ROUNDS),10) SEED=$(SEED) $(BIN)/pytest tests/chaos

scale: setup test-tools ## several dispatchers over one PostgreSQL, restarted, killed, frozen and failed over under load; minutes
	@$(BIN)/pytest tests/contract/replicas -m long -s

bench: setup base-image ## the benches: a table of targets and measured, and var/bench.json; BENCH=name runs one of them
	@$(BIN)/python -m benches $(BENCH)

fleet: setup ## ten thousand simulated nodes, a herd, and offers with a million tasks waiting: table, var/fleet.json, var/offers.svg
	@$(BIN)/python -m benches offers fleet --json var/fleet.json

fleet-faults: setup test-tools ## ten thousand simulated nodes on two dispatchers over PostgreSQL, one fault after the other, each audited
	@$(BIN)/python -m benches fleet_faults --json var/faults.json

fuzz: setup ## many requests made from the description of the API, against it: EXAMPLES=200 of each kind, SEED= repeats
	@EXAMPLES=$(or $(EXAMPLES),200) SEED=$(SEED) $(BIN)/pytest tests/contract/http_api/test_fuzz.py

test-install: setup base-image test-tools ## fernd installed on machines that boot for it: service, package, image; minutes
	@$(BIN)/pytest tests/install

wheels: setup ## dist/wheels: what fernd is installed from without a network, for this machine's architecture (ARCH=arm64)
	@rm -rf dist/wheels
	@$(BIN)/python deploy/wheelhouse.py dist/wheels $(if $(ARCH),--arch $(ARCH))

deb: setup ## dist/fernd_VERSION_ARCH.deb, for this machine's architecture (ARCH=arm64)
	@deploy/build-deb.sh $(ARCH)

check-arm64: setup ## say for each dependency which wheel an arm64 machine would take
	@$(BIN)/python deploy/wheelhouse.py --check --arch arm64

image: wheels base-image ## the image fernd, of agent and dispatcher, on fernd-base (BASE=python:3.11-slim)
	@docker build --quiet --file deploy/Dockerfile --build-arg BASE=$(or $(BASE),fernd-base) --tag fernd .

postgres-image: engine ## the image fernd-postgres of Debian's packages, for deploy/compose.yaml without a registry
	@deploy/postgres/build.sh

test-tools: setup ## see to it that what the tests need beside Python is there: of Debian PostgreSQL, Chromium and others; axe-core
	@deploy/ensure-test-tools.sh

unit: setup ## the unit tests alone, without the engine
	@$(BIN)/pytest tests/unit

lint: setup ## ruff, mypy and import-linter
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy
	@MYPYPATH=examples $(BIN)/mypy deploy/engine.py examples/*.py
	@$(BIN)/mypy --explicit-package-bases docs/*.py
	@$(BIN)/mypy --explicit-package-bases benches/*.py
	@output=$$($(BIN)/lint-imports) || { echo "$$output"; exit 1; }

setup: .venv/installed ## .venv with the locked dependencies and fernd itself; once for each lock

.venv/installed: requirements.lock pyproject.toml deploy/setup.sh
	@deploy/setup.sh
	@touch $@

engine: ## see to it that a Docker Engine answers
	@deploy/ensure-engine.sh

base-image: engine ## see to it that the image fernd-base is there
	@deploy/base-image.sh >/dev/null

examples: setup base-image ## build the images of the examples
	@$(BIN)/python examples/build.py

reference: setup ## write the pages of docs/ that are made from the code
	@$(BIN)/python -m docs.reference

docs: reference ## the same

lock: ## make requirements.lock anew from pyproject.toml, with the newest versions; needs uv
	@command -v uv >/dev/null || { echo "lock: uv is missing: 'pip install uv' brings it." >&2; exit 1; }
	@uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --group dev --all-extras --no-header \
	  pyproject.toml --output-file requirements.lock

clean: ## remove .venv, caches and what the demo left in var/
	@rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist var
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
