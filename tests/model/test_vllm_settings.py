"""What holds wherever vLLM is not installed; the rest is in `test_vllm_backend`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sonoloop.model.checkpoint import check_folder
from sonoloop.model.configuration import read_config
from sonoloop.model.engine import TransformersEngine
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.open_engine import open_engine
from sonoloop.model.vllm_engine.engine import VllmEngine
from sonoloop.model.vllm_engine.settings import is_available, prepare_environment
from sonoloop.platform.errors import CheckpointError, ConfigError

FIXTURES = Path(__file__).parent.parent / "fixtures"
without_vllm = pytest.mark.skipif(is_available(), reason="vLLM is installed here")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "echovlm-tiny", tmp_path / "model"))


def test_looking_for_vllm_imports_neither_it_nor_torch() -> None:
    code = (
        "import sys; from sonoloop.model.vllm_engine.settings import is_available; is_available();"
        "print({'vllm', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_users_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "user")
    for name in ("VLLM_CPU_OMP_THREADS_BIND", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    prepare_environment()
    assert os.environ["DO_NOT_TRACK"] == "user"
    assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


@without_vllm
def test_without_vllm_auto_takes_transformers_and_vllm_by_name_says_what_to_install() -> None:
    from sonoloop.model import nano

    config = EngineConfig(device="cpu", dtype="float32")
    assert isinstance(open_engine(nano.folder(), config), TransformersEngine)
    with pytest.raises(ConfigError, match=r"install sonoloop\[vllm\]"):
        VllmEngine(nano.folder(), config)


def test_a_complete_folder_passes_without_its_weights_being_read(folder: Path) -> None:
    assert check_folder(folder).text_config.num_experts == read_config(folder).text_config.num_experts


@pytest.mark.parametrize(
    ("key", "weight", "message"),
    [
        ("model.layers.0.coefficient.bias", None, r"missing weights.*coefficient\.bias"),
        ("model.layers.1.moe.experts.0.down_proj.weight", None, r"missing weights.*experts\.0\.down_proj"),
        ("model.layers.0.coefficient.bias", torch.zeros(3), r"coefficient\.bias has shape \(3,\)"),
        ("model.layers.9.mlp.extra", torch.zeros(3), r"unexpected weights"),
    ],
    ids=["no-bias", "no-expert-matrix", "another-shape", "one-too-many"],
)
def test_a_folder_that_differs_from_its_configuration_is_refused(
    folder: Path, key: str, weight: torch.Tensor | None, message: str
) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(key, None)
    save_file(
        weights | ({key: weight} if weight is not None else {}),
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(CheckpointError, match=message):
        check_folder(folder)


def test_a_weight_file_that_belongs_to_nothing_is_refused(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "old.safetensors")
    with pytest.raises(CheckpointError, match=r"old\.safetensors"):
        check_folder(folder)
