# Drayman. `make` alone lists what there is.
VENV    ?= .venv
PYTHON  ?= python3
BIN     := $(VENV)/bin

DIR     ?= /usr/share/doc
WORKERS ?= 4
CMD     ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench protos serve clean

help: ## what can be made
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.ready ## hand the files of DIR to WORKERS processes that run CMD (default: SHA-256)
	@$(BIN)/python -m drayman demo --dir "$(DIR)" --workers "$(WORKERS)" $(if $(CMD),--command '$(CMD)')

# Hundreds of processes are started from the same sources: whatever the environment says, they are compiled once.
test: $(VENV)/.ready ## run the tests, several files at a time
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.ready ## style, types, layers, protos
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/buf format --diff --exit-code protos
	$(BIN)/buf lint protos
	@PATH="$(abspath $(BIN)):$$PATH" sh protos/breaking.sh

bench: $(VENV)/.ready ## measure against the ceiling and the baseline; writes benchmarks/RESULTS.md
	$(BIN)/python benchmarks/run.py $(ARGS)

protos: $(VENV)/.ready ## generate the stubs anew
	$(BIN)/python -m pip install --quiet --no-deps --editable .

serve: $(VENV)/.ready ## run all services with an embedded PostgreSQL
	$(BIN)/drayman serve $(ARGS)

clean: ## remove what was built
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis clients/drayman/*/v1
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment follows pyproject.toml and the protos.
$(VENV)/.ready: pyproject.toml protos/build_stubs.py $(shell find protos -name '*.proto')
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group test --group lint --group bench --editable '.[local,ldap]'
	@touch $@
