# Every target does its own set-up; `make setup` is idempotent and quick when nothing has changed.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= $(shell scripts/find-python)
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := core data model train eval
# Two processes of tests: each starts ranks of its own.
WORKERS ?= 2
STAMP := $(VENV)/.ready

.PHONY: setup demo test check format recipes docs clean

setup: $(STAMP)

$(STAMP): constraints.txt requirements-dev.txt $(PACKAGES:%=sub-packages/scmf-%/pyproject.toml) scripts/find-python
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned packages into $(VENV) (the first time about a minute plus downloads)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -c constraints.txt \
	    $(PACKAGES:%=-e sub-packages/scmf-%)
	@touch $@

# make demo DATA=my.h5ad trains on your own counts.
demo: setup
	$(BIN)/python scripts/demo.py $(if $(DATA),--data "$(DATA)")

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(PACKAGES:%=-p scmf.%)
	$(BIN)/mypy scripts
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)

recipes: setup
	$(BIN)/python scripts/write_recipes.py

# The pages as HTML in site/; a broken link, anchor or picture is an error.
docs: setup
	$(BIN)/python scripts/build_docs.py

clean:
	rm -rf $(VENV) demo site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
