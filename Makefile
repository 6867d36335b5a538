# Everything a newcomer types. VENV and PYTHON may be set from outside.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
LABELSTUDIO_VENV ?= .venv-labelstudio
BIN = $(VENV)/bin
export SONOLOOP_LABELSTUDIO_VENV := $(abspath $(LABELSTUDIO_VENV))

.PHONY: install demo test check format lint types bench clean

install: $(VENV)/.installed $(LABELSTUDIO_VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@echo "installing sonoloop into $(VENV) (about 3 minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --progress-bar off -e '.[dev]'
	@touch $@

$(LABELSTUDIO_VENV)/.installed: platform/stack/labelstudio-requirements.txt
	@echo "installing Label Studio into $(LABELSTUDIO_VENV) (about 1 minute the first time)"
	$(PYTHON) -m venv $(LABELSTUDIO_VENV)
	$(LABELSTUDIO_VENV)/bin/pip install --progress-bar off -r $<
	@touch $@

demo: install
	$(BIN)/sonoloop demo $(if $(INTERACTIVE),--interactive)

test: install
	$(BIN)/pytest

check: install lint types test

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

bench: install
	$(BIN)/python -m benchmarks

clean:
	-$(BIN)/sonoloop down
	rm -rf .sonoloop demo-output
