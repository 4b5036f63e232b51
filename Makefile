# make demo · make test · make check · make install · make clean
PYTHON ?= python3
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip --quiet
LABEL_STUDIO := 1.23.2

.PHONY: demo test check install format clean

demo: .venv/.installed .venv-labelstudio/.installed  ## the whole loop on the built-in data
	.venv/bin/alpipe demo data/demo

test: .venv/.installed .venv-labelstudio/.installed  ## all tests, real servers included
	.venv/bin/python -m pytest

check: .venv/.installed  ## style, types, layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

install: .venv/.installed .venv-labelstudio/.installed

format: .venv/.installed
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

.venv/.installed: pyproject.toml constraints.txt
	@echo "making .venv (a minute or two)"
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "Python 3.11 or newer is needed; say which: make PYTHON=python3.12"; exit 1; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) install --constraint constraints.txt --editable ".[dev]"
	touch $@

# Label Studio cannot share an environment with Prefect: their dependencies contradict each other.
.venv-labelstudio/.installed: Makefile
	@echo "making .venv-labelstudio (about a minute)"
	test -x .venv-labelstudio/bin/python || $(PYTHON) -m venv .venv-labelstudio
	PIP_DISABLE_PIP_VERSION_CHECK=1 .venv-labelstudio/bin/python -m pip --quiet install "label-studio==$(LABEL_STUDIO)"
	touch $@

clean:
	rm -rf .venv .venv-labelstudio data/demo
