# make demo | test | coverage | lint | lock | clean; each makes .venv and installs into it when it needs to.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
unexport PYTHONPATH

# The first of these that the locks are for; make test PYTHON=/path/to/python3.12 names another.
IS_LOCKED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c '$(IS_LOCKED)' >/dev/null 2>&1 && echo $$p && break; done)
else
# An environment of another Python than the one asked for is made anew; where none is asked for, any of the three stays.
VERSION := import sys; print(sys.version_info[:2])
$(shell [ -x .venv/bin/python ] && $(PYTHON) -c '$(IS_LOCKED)' >/dev/null 2>&1 && \
	[ "$$(.venv/bin/python -c '$(VERSION)' 2>/dev/null)" != "$$($(PYTHON) -c '$(VERSION)')" ] && touch .venv/unfinished)
endif
# More for pip, such as --extra-index-url https://download.pytorch.org/whl/cpu
PIP_ARGS ?=
# How many packages the demo takes (all = every one), and its teacher: a hub id (org/name) or a directory.
DOCUMENTS ?= 800
TEACHER ?=

PIP := .venv/bin/python -m pip
# What distinguishes this demo from the plain one, in the names of its directories.
SAMPLE := $(if $(filter 800,$(DOCUMENTS)),,-$(DOCUMENTS))
DATA := data/debian-packages$(SAMPLE)
RUN := runs/debian-packages$(SAMPLE)$(if $(TEACHER),-$(notdir $(TEACHER:%/=%)))

.PHONY: help
help:
	@echo 'make demo                  tag Debian packages with small real models, from nothing to a report'
	@echo 'make demo DOCUMENTS=all    the same with every package; TEACHER=<hub id or directory>: with a better LLM'
	@echo 'make test                  the whole test suite'
	@echo 'make coverage              the same with the coverage of each file'
	@echo 'make lint                  ruff, mypy, import-linter'
	@echo 'make lock                  resolve requirements/*.txt anew from pyproject.toml'
	@echo 'make clean                 remove .venv and caches; data/ and runs/ stay'

.PHONY: demo
demo: .venv/installed $(DATA)/documents.jsonl.gz
	.venv/bin/ezxmc run examples/debian_packages.yaml run='$(RUN)' \
		'prepare.documents=[$(DATA)/documents.jsonl.gz]' 'prepare.labels=[$(DATA)/labels.jsonl.gz]' \
		$(if $(TEACHER),teacher.model='$(TEACHER)')
	@echo
	@echo 'The report:            $(RUN)/report.html (open it in a browser; report.json has the figures)'
	@echo 'The student:           $(RUN)/student/ (SentenceTransformer loads it)'
	@echo 'Tag your own texts:    .venv/bin/ezxmc tag $(RUN)'
	@echo 'Every package:         make demo DOCUMENTS=all'
	@echo 'With a better teacher: make demo TEACHER=Qwen/Qwen2.5-7B-Instruct (any instruct LLM, or a directory with one)'

$(DATA)/documents.jsonl.gz: | .venv/installed
	.venv/bin/python examples/debian_packages.py --output $(DATA) --documents $(DOCUMENTS)

# Counting lines is free from Python 3.12 on (sys.monitoring); on 3.11 it takes two thirds of the tests' own time again.
COUNT := --cov=ezxmc_ray --cov-report=term:skip-covered
# Test processes; each takes 2 to 3 GiB. On two cores a third brings nothing.
PROCESSES ?= 2
COUNT_IF_FREE = $(shell .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 12))' && echo '$(COUNT)')

.PHONY: test
test: .venv/installed-dev
	COVERAGE_CORE=sysmon .venv/bin/python -m pytest -n $(PROCESSES) $(COUNT_IF_FREE)

.PHONY: coverage
coverage: .venv/installed-dev
	.venv/bin/python -m pytest -n $(PROCESSES) $(COUNT)

.PHONY: lint
lint: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

.PHONY: lock
lock: | supported
	$(PYTHON) tools/lock.py

.PHONY: clean
clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache *.egg-info

.PHONY: supported
supported:
	@if [ "$$(uname -sm)" != 'Linux x86_64' ] || ! $(PYTHON) -c '$(IS_LOCKED)' >/dev/null 2>&1; then \
		echo 'error: The locked versions are for Linux x86_64 with Python 3.11, 3.12 or 3.13' \
			"(here: $$(uname -sm)$(if $(PYTHON), and $(PYTHON), without such a Python; name one with PYTHON=…)); use such a machine or a container." >&2; \
		exit 2; \
	fi

# The mark .venv/unfinished outlives an install that was interrupted: pip may have left half a package that it would
# later take for a whole one, so such an environment is made anew (what was downloaded is still in pip's cache).
$(shell [ -e .venv/unfinished ] && rm -f .venv/installed .venv/installed-dev)

.venv/installed: requirements/cpu.txt pyproject.toml | supported
	@if [ -e .venv/unfinished ] || ! .venv/bin/python -c 'import pip; $(IS_LOCKED)' 2>/dev/null; \
	then echo 'Making .venv'; $(PYTHON) -m venv --clear .venv || { \
		echo 'error: $(PYTHON) cannot make an environment (see above); on Debian and Ubuntu its package python3-venv is missing.' >&2; exit 2; }; fi
	@touch .venv/unfinished
	@$(PIP) install --disable-pip-version-check --no-deps $(PIP_ARGS) -r requirements/cpu.txt || { status=$$?; \
		grep '^torch==' requirements/cpu.txt | sed 's/^/error: Not everything could be installed (see above); if it was /; s/$$/,/' >&2; \
		echo "that is on PyTorch's own index: make $(or $(MAKECMDGOALS),demo) PIP_ARGS=\"--extra-index-url https://download.pytorch.org/whl/cpu\"" >&2; \
		exit $$status; }
	@$(PIP) install --disable-pip-version-check --no-deps --no-build-isolation --quiet --editable .
	@rm .venv/unfinished
	@touch $@

.venv/installed-dev: requirements/dev.txt .venv/installed
	@touch .venv/unfinished
	@$(PIP) install --disable-pip-version-check --no-deps $(PIP_ARGS) -r requirements/dev.txt
	@rm .venv/unfinished
	@touch $@
