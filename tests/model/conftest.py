"""Model folders for the tests of `sonoloop.model`: nano as shipped, and nano with random weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sonoloop.model import nano
from sonoloop.model.checkpoint import save_model
from sonoloop.model.configuration import read_config
from sonoloop.model.modeling import EchoVLMForConditionalGeneration
from sonoloop.model.prepared import CaseInput, PreparedCase, prepare
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.platform.lexicon import Organ


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def processor() -> EchoVLMProcessor:
    return EchoVLMProcessor.from_folder(nano.folder())


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nano's tokenizer and sizes, weights that know nothing."""
    folder = tmp_path_factory.mktemp("random")
    torch.manual_seed(0)
    model = EchoVLMForConditionalGeneration._from_config(read_config(nano.folder()))
    with torch.no_grad():
        # spread the logits, so that greedy choices differ from row to row
        model.model.language_model.norm.weight.mul_(20.0)
    save_model(model, folder)
    for path in nano.folder().iterdir():
        if not (folder / path.name).exists() and path.suffix != ".safetensors":
            shutil.copy(path, folder / path.name)
    return folder


@pytest.fixture(scope="session")
def noise_case(processor: EchoVLMProcessor) -> Callable[..., PreparedCase]:
    """Makes a case of seeded noise."""

    def make(seed: int, *, num_images: int = 1, organ: Organ | None = "breast") -> PreparedCase:
        rng = np.random.default_rng(seed)
        images = tuple(rng.integers(0, 256, (168, 224), dtype=np.uint8) for _ in range(num_images))
        return prepare(processor, CaseInput(f"noise-{seed}", images, organ))

    return make
