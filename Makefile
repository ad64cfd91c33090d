# `make` alone lists the tasks. Everything is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export GRPC_ENABLE_FORK_SUPPORT := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install run demo test check format lint protos protos-check docs docs-check imports bench test-fault clean requirements image grpcurl

help: ## List the tasks
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(STAMP): pyproject.toml requirements/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps -e .
	@touch $@

install: $(STAMP) ## Install everything into .venv

run: $(STAMP) ## Start Postgres and the service, with demo data on the first start
	$(BIN)/voucher-grpc dev

demo: $(STAMP) ## Play both signals on a throw-away database
	$(BIN)/voucher-grpc demo

test: $(STAMP) ## Run the tests
	$(BIN)/python -m pytest -n auto --dist worksteal

test-fault: $(STAMP) ## Kill, cut and freeze everything under load (SEEDS=50 runs, or SEED=17 alone)
	$(BIN)/python -m tests.fault $(if $(SEEDS),--seeds $(SEEDS)) $(if $(SEED),--seed $(SEED))

.PHONY: test-dates
test-dates: $(STAMP) ## Run what the README shows on 60 dates of two years (DATES=6)
	$(BIN)/python -m tests.dates $(if $(DATES),--dates $(DATES))

.PHONY: mutants
mutants: $(STAMP) ## How many small mistakes in rules and SQL the tests notice (MUTANTS=200, SEED=1; goes on where it was)
	$(BIN)/python -m tools.mutants $(if $(MUTANTS),--mutants $(MUTANTS)) $(if $(SEED),--seed $(SEED))

.PHONY: test-protobuf7
test-protobuf7: ## Run client and server with the newest protobuf 7
	PYTHON=$(PYTHON) tools/test-protobuf7

.PHONY: test-pricing-peer
test-pricing-peer: $(STAMP) ## Compare 2,000 prices with the crate ocpi-tariffs-cli (PAIRS, SEED; needs cargo)
	tools/test-pricing-peer $(if $(PAIRS),--pairs $(PAIRS)) $(if $(SEED),--seed $(SEED))

check: format-check lint imports protos-check sql-rule docs-check test ## Everything that CI runs

.PHONY: sql-rule
sql-rule: $(STAMP) ## Check that new SQL can run on a distributed Postgres
	$(BIN)/python -m tools.sql_rule

.PHONY: coverage
coverage: $(STAMP) ## Run the tests and measure which lines and branches they execute
	rm -f build/coverage/data*
	$(BIN)/coverage run -m pytest -n auto --dist worksteal
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --sort=cover

.PHONY: format-check
format-check: $(STAMP)
	$(BIN)/ruff format --check .

format: $(STAMP) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(STAMP) ## Lint and check types
	$(BIN)/ruff check .
	$(BIN)/mypy

imports: $(STAMP) ## Check the way of the data
	$(BIN)/lint-imports

protos: $(STAMP) ## Generate voucher_grpc/v1 from protos/
	$(BIN)/python -m tools.protos generate

protos-check: $(STAMP) ## Lint the protos, look for breaking changes and stale generated code
	$(BIN)/python -m tools.protos check

docs: $(STAMP) ## Generate the tables in docs/
	$(BIN)/python -m tools.docs generate

docs-check: $(STAMP)
	$(BIN)/python -m tools.docs check

bench: $(STAMP) ## Measure beside two ceilings and a peer (QUICK=1: a minute; SCALE=1: a million users too; PASSES=20000000)
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(if $(SCALE),--scale) $(if $(PASSES),--passes $(PASSES))

grpcurl: ## Build the real grpcurl into .tools (needs Go)
	tools/build-grpcurl

.PHONY: bench-overload soak
bench-overload: $(STAMP) ## Measure goodput when too much is asked (QUICK=1: a minute)
	$(BIN)/python -m benchmarks.overload $(if $(QUICK),--quick)

.PHONY: bench-attack
bench-attack: $(STAMP) ## Measure what attacks over HTTP/2 do (QUICK=1: a glimpse; FRONT=1: behind nftables)
	$(BIN)/python -m benchmarks.attack $(if $(QUICK),--quick) $(if $(FRONT),--front) $(KIND)

.PHONY: bench-credentials bench-reload
bench-credentials: $(STAMP) ## Measure what tokens and certificates cost (QUICK=1: half a minute)
	$(BIN)/python -m benchmarks.credentials $(if $(QUICK),--quick)

bench-reload: $(STAMP) ## Measure what calls notice of rolling reloads (QUICK=1: less)
	$(BIN)/python -m benchmarks.reload $(if $(QUICK),--quick)

.PHONY: bench-lists bench-changes
bench-lists: $(STAMP) ## Measure what others notice of lists at their limits (QUICK=1: less)
	$(BIN)/python -m benchmarks.lists $(if $(QUICK),--quick)

bench-changes: $(STAMP) ## Measure what calls notice of changed tariffs (QUICK=1: less)
	$(BIN)/python -m benchmarks.catalogue_changes $(if $(QUICK),--quick)

soak: $(STAMP) ## Everything at once for ten minutes: memory, descriptors, connections flat? (SECONDS=600)
	$(BIN)/python -m benchmarks.soak $(if $(SECONDS),--seconds $(SECONDS))

requirements: $(STAMP) ## Pin the requirement files anew
	$(BIN)/python -m tools.requirements

image: ## Build the container image with buildah
	buildah build --build-arg BASE=$(or $(BASE),docker.io/library/python:3.12-slim) -t voucher-grpc .

clean: ## Remove what was built; the data of `make run` stays
	rm -rf build dist $(VENV)
