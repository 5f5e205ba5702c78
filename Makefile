# `make demo` shows metald at work; `make test` proves it. Both do their own set-up.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check format lint layers types wheel soak bench lock schemas clean
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH):/usr/sbin:/sbin
PYTHON_FILES := reconciler tests scripts/demo.py

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## / \t/' | expand -t 10

setup:  ## system packages and .venv (quick when nothing is missing)
	@scripts/bootstrap

demo: setup  ## boot the quickstart fleet for real, change it, break it, heal it
	@python scripts/demo.py

test: setup lint layers types  ## the whole suite, real guests included
	@pytest

check: test wheel  ## everything a merge needs: format, lint, layers, types, tests, wheel

format:  ## rewrite the code in its one format
	@ruff format $(PYTHON_FILES) && ruff check --fix $(PYTHON_FILES)

lint:
	@ruff format --check $(PYTHON_FILES) && ruff check $(PYTHON_FILES)

layers:
	@lint-imports

types:
	@mypy

wheel:  ## build the wheel and the source distribution into dist/
	@rm -rf dist && python -m build --no-isolation --outdir dist . >/dev/null && ls dist

soak: setup  ## the long forms of the tests
	@pytest -m soak -s

bench: setup  ## figures, each with the floor it is compared with
	@pytest -m bench -s

schemas: setup  ## publish the JSON Schemas of the spec kinds under specs/schema
	@metald schema --write specs/schema

lock:  ## pin all dependencies anew
	@uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml -o requirements.lock
	@uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links --extra dev pyproject.toml -o requirements-dev.lock

clean:  ## remove what builds and tests left
	@rm -rf .venv build dist .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
