# Windvane. `make demo` and `make test` need only Python 3.11 or later, git and make; everything else is installed into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# settings of this machine, see .env.example
-include .env
export

# without byte code every process would compile the whole stack again
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := $(shell sed -n 's/^uv==\([^ ;]*\).*/\1/p' requirements.txt)
UV := UV_COMPILE_BYTECODE=1 VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv
TARGET ?=
UNTIL ?= 2013-07

# uv is several times faster, but pip knows of indexes and certificates that uv does not read
install = $(UV) pip install --quiet $(1) || $(BIN)/python -m pip install --quiet --disable-pip-version-check $(1)
digest = $(shell cat $(1) | cksum | tr -c '0-9\n' '-' | sed 's/-*$$//')
INSTALLED := $(VENV)/installed-$(call digest,requirements.txt pyproject.toml)
INSTALLED_DEV := $(VENV)/installed-dev-$(call digest,requirements.txt requirements-dev.txt pyproject.toml)

.PHONY: help demo test up down status images check format bench lock clean compose-up compose-down compose-demo test-compose

help:  ## Show this.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

demo: $(INSTALLED)  ## Run the whole loop on the flights of 2013; TARGET=docker serves from containers, UNTIL=2013-09 goes on longer.
	@$(BIN)/windvane demo --until $(UNTIL) $(if $(TARGET),--target $(TARGET))

# tests of one platform each need the machine for themselves, the others share its cores
test: check  ## Set everything up, check, and run all tests.
	@$(BIN)/python -m pytest tests/unit tests/dags --numprocesses logical --maxprocesses 4 --dist loadfile
	@$(BIN)/python -m pytest tests/live

up: $(INSTALLED)  ## Start Airflow, MLflow and the scoring services on 127.0.0.1.
	@$(BIN)/windvane up

down: $(INSTALLED)  ## Stop exactly what was started.
	@$(BIN)/windvane down

status: $(INSTALLED)  ## Tell what runs and what serves.
	@$(BIN)/windvane status || [ $$? -eq 3 ]

images: $(INSTALLED)  ## Prepare the images of target docker, so that no deployment waits for a download.
	@$(BIN)/windvane images

compose-up:  ## Start Airflow with Celery, PostgreSQL, Redis and MLflow in containers; needs Docker with Compose and no more.
	@$(PYTHON) include/docker/prepare_env.py
	@docker compose build --quiet airflow-init worker-deploy
	@docker compose up --detach --wait --no-build
	@echo "Airflow   http://127.0.0.1:$${WINDVANE_AIRFLOW_PORT:-8080}   users viewer, user, op, admin; passwords in .env: AIRFLOW_ADMIN_PASSWORD, ..."
	@echo "MLflow    http://127.0.0.1:$${WINDVANE_MLFLOW_PORT:-5000}   user admin; password in .env: MLFLOW_ADMIN_PASSWORD"
	@echo "make compose-demo tells the story of make demo; make compose-down stops everything and keeps what it knows"

compose-down:  ## Stop the containers, also those of the models; volumes and state stay.
	@docker compose stop worker-deploy
	@docker compose run --rm --no-deps --entrypoint windvane worker-deploy down
	@docker compose --profile demo --profile grafana down

compose-demo:  ## Run the story of `make demo` on the containers that `make compose-up` started.
	@docker compose run --rm demo demo --until $(UNTIL)

test-compose: $(INSTALLED_DEV)  ## Bring the containers up from nothing, run the story, kill a worker, PostgreSQL and Redis; 25 minutes.
	@$(BIN)/python -m pytest tests/compose

check: $(INSTALLED_DEV)  ## Format, lint, types, import contracts, generated files, configs.
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy include plugins
	PYTHONPATH=plugins $(BIN)/lint-imports
	$(BIN)/python -m windvane.describe_config --check
	$(BIN)/windvane check

format: $(INSTALLED_DEV)  ## Format the code and make the generated files anew.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/python -m windvane.describe_config

bench: $(INSTALLED)  ## Run the benchmarks: one per figure that the README quotes.
	@for benchmark in benchmarks/*.py; do echo "== $$benchmark"; $(BIN)/python "$$benchmark"; done

lock: $(BIN)/uv  ## Compile requirements.in and requirements-dev.in into pinned files.
	$(UV) pip compile --quiet --universal --python-version 3.11 requirements.in -o requirements.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 requirements-dev.in -o requirements-dev.txt
	$(UV) pip compile --quiet --universal --no-header --python-version 3.11 --constraints requirements.txt include/docker/scorer/requirements.in -o include/docker/scorer/requirements.txt
	$(UV) pip compile --quiet --universal --no-header --python-version 3.11 --constraints requirements.txt requirements.in include/docker/airflow/requirements.in -o include/docker/airflow/requirements.txt

clean:  ## Stop everything and remove all state; the next run begins from nothing.
	@if [ -x $(BIN)/windvane ]; then $(BIN)/windvane down; fi
	rm -rf var build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/uv: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "make: $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing), needed is Python 3.11 or later; set PYTHON, as in: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "make: $(PYTHON) cannot make virtual environments; install its venv package, such as python3-venv" >&2; exit 1; }
	@[ -x $(BIN)/python ] || { echo "Making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@[ "$$($(BIN)/uv --version 2>/dev/null | cut -d' ' -f2)" = "$(UV_VERSION)" ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

$(INSTALLED): | $(BIN)/uv
	@echo "Installing the pinned packages of requirements.txt"
	@$(call install,-r requirements.txt)
	@$(call install,--no-deps --no-build-isolation -e .)
	@rm -f $(VENV)/installed-[0-9]*; touch $@

$(INSTALLED_DEV): $(INSTALLED)
	@echo "Installing the pinned packages of requirements-dev.txt"
	@$(call install,-r requirements-dev.txt)
	@rm -f $(VENV)/installed-dev-*; touch $@
