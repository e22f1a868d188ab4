# Two commands do everything on a fresh machine: make demo, make test.
PYTHON ?= python3
BIN := .venv/bin
TREE := build/tree
SUITE ?= seed

help:
	@echo "make demo    set up, then watch three agents share one model"
	@echo "make test    set up, then lint, types and all tests"
	@echo "make setup   set up .venv (GPU=cuda|hip|vulkan|metal|cpu is remembered; PYTHON=...)"
	@echo "make bench   one suite: make bench SUITE=NAME (names: .venv/bin/aios bench --help)"
	@echo "make packages   build a wheel and an sdist, and run an agent from each"
	@echo "make lint types docs clean"

setup:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "setup: Python 3.11" \
		"or newer is needed, $(PYTHON) is older or missing: make setup PYTHON=..." >&2; exit 1; }
	@GPU="$(GPU)" $(PYTHON) tools/setup.py

demo: setup
	@$(BIN)/python -P -m aios.bench.demo

test: setup lint types
	$(BIN)/python -m pytest $(if $(COVERAGE),--cov --cov-report=)
	@if [ -n "$(COVERAGE)" ]; then $(BIN)/python -m coverage report | sed -n '1,17p;/^TOTAL/p'; fi

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --cache-dir build/import-linter
	$(BIN)/python tools/docs.py --check

# mypy walks a tree of links laid out as the package is installed
types: setup
	@rm -rf $(TREE) && mkdir -p $(TREE)/aios
	@ln -s $(CURDIR)/agentproc/*.py $(CURDIR)/agentproc/py.typed $(TREE)/aios/
	@for part in boot cli toolhost; do ln -s $(CURDIR)/agentproc/$$part $(TREE)/aios/$$part; done
	@for part in bench examples hw kernel syscalls; do ln -s $(CURDIR)/$$part $(TREE)/aios/$$part; done
	@ln -s $(CURDIR)/tests $(CURDIR)/tools $(TREE)/
	cd $(TREE) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p aios -p tests
	cd $(TREE) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml tools/*.py

docs: setup
	$(BIN)/python tools/docs.py

bench: setup
	$(BIN)/aios bench $(SUITE)

packages: setup
	$(BIN)/python tools/try_packages.py

clean:
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache

.PHONY: help setup demo test lint types docs bench packages clean
