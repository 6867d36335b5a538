"""What holds wherever vLLM is not installed; the rest is in `test_vllm_backend`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sonoloop.model.checkpoint import check_folder
from sonoloop.model.configuration import read_config
from sonoloop.model.engine import TransformersEngine
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.generation import Prompt, Request, Turn
from sonoloop.model.open_engine import open_engine
from sonoloop.model.patches import NO_PATCHES
from sonoloop.model.vllm_engine.backend import Conversations
from sonoloop.model.vllm_engine.core import Written
from sonoloop.model.vllm_engine.engine import VllmEngine
from sonoloop.model.vllm_engine.settings import is_available, prepare_environment
from sonoloop.platform.errors import CheckpointError, ConfigError, RejectedError

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


class SecondTurnRefused:
    """Stands for vLLM, which is not installed here: writes a token of every answer, takes no second turn."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def submit(self, name: str, token_ids: list[int], *_: object, **__: object) -> None:
        if 0 in token_ids:
            raise ValueError("vLLM takes no such prompt")
        self.names.append(name)

    def step(self) -> list[Written]:
        return [Written(name, [0], [{0: -0.1}], finished=True) for name in self.names]

    def abort(self, names: object) -> None:
        pass


def test_an_answer_that_vllm_does_not_go_on_with_costs_no_other_its_own() -> None:
    talks = Conversations(SecondTurnRefused(), None, (0,), max_rows=4)  # type: ignore[arg-type]
    prompt = Prompt([5, 6], NO_PATCHES, np.zeros((0, 3), np.int64))
    one, two = (talks.open(Request(prompt, turns)) for turns in ((Turn(4),), (Turn(4), Turn(4))))
    assert talks.admit(one)
    assert talks.admit(two)
    first, second = talks.step()
    assert ([token.token_id for token in first[1]], isinstance(first[2], list)) == ([0], True)
    assert second[0] is two
    assert isinstance(second[2], RejectedError)
    assert not talks._inside
