# Everything a developer or a newcomer runs. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: help demo dev test test-fast browser dbt soak lint format lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

demo: $(VENV)/.run ## ten days and half a year of history of seven synthetic listeners, then the Dagster UI (ARGS=--once: stop after the table)
	@$(BIN)/spotify-pipeline demo $(ARGS)

dev: $(VENV)/.run ## database, Dagster UI and daemon
	@$(BIN)/spotify-pipeline dev $(ARGS)

test: $(VENV)/.dev ## the whole test suite (ARGS goes to pytest)
	$(BIN)/pytest $(ARGS)

# Without processes, daemons and crashes; fewer examples per property.
test-fast: $(VENV)/.dev ## rules, client and database, in a minute
	HYPOTHESIS_PROFILE=quick $(BIN)/pytest --ignore spotify_pipeline_tests/storage/embedded --ignore spotify_pipeline_tests/storage/postgres $(addprefix spotify_pipeline_tests/,domain spotify storage test_documents.py test_settings.py test_redaction.py) $(ARGS)

browser: $(VENV)/.dev ## the tests that need Chromium
	$(BIN)/pytest -m browser -n 1 $(ARGS)

dbt: $(VENV)/.dev $(VENV)/dbt/.ready ## dbt reads deploy/dbt, installed apart from everything else
	$(BIN)/pytest -n 0 -m dbt spotify_pipeline_tests/deploy/test_data_kit.py $(ARGS)

soak: $(VENV)/.dev ## hundreds of kills, the largest bodies, every rule with thousands of examples (hours)
	SOAK=1 $(BIN)/pytest -n 1 --timeout 3600 spotify_pipeline_tests/crashes spotify_pipeline_tests/sync/imports/test_killed_imports.py spotify_pipeline_tests/defs/cluster/test_request_life.py spotify_pipeline_tests/defs/cluster/test_warm_process.py spotify_pipeline_tests/sync/requests/test_app_sessions.py $(ARGS)
	SOAK=1 $(BIN)/pytest --timeout 3600 spotify_pipeline_tests/domain/listening/test_days.py spotify_pipeline_tests/domain/personality/test_plain_personality.py $(ARGS)
	HYPOTHESIS_PROFILE=soak $(BIN)/pytest --timeout 14400 -m hypothesis $(ARGS)

lint: $(VENV)/.dev ## format, lint, types, layers, definitions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PYTHONWARNINGS=ignore $(BIN)/dagster definitions validate --log-level warning

format: $(VENV)/.dev ## let ruff write what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The locks name versions and hashes, never a registry; pip refuses anything else.
$(VENV)/.run: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 15) else "spotify_pipeline needs Python 3.11 to 3.14, and $(PYTHON) is %d.%d: run make PYTHON=python3.12 demo" % sys.version_info[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked dependencies into $(VENV) (a minute the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

$(VENV)/dbt/.ready: requirements-dbt.lock
	@test -x $(VENV)/dbt/bin/python || $(BIN)/python -m venv $(VENV)/dbt
	@$(VENV)/dbt/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements-dbt.lock
	@touch $@

lock: ## compile the locks anew from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-header --extra build -o requirements.lock pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-header --extra apprise --extra build --extra celery --extra kubernetes --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-header --extra apprise --extra build --extra celery --extra kubernetes -c requirements.lock -o requirements-image.lock pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-header --group dbt -o requirements-dbt.lock

clean: ## the virtual environment and all caches; data in .spotify_pipeline stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
