"""A model folder of nano's architecture that knows nothing: its answers are long, varied and reproducible."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sonoloop.model.checkpoint import save_model
from sonoloop.model.decoding import END_OF_TEXT
from sonoloop.model.modeling import EchoVLMForConditionalGeneration
from sonoloop.model.nano.tokenizer import train_tokenizer
from sonoloop.model.nano.train import MAX_PIXELS, NanoConfig, nano_config
from sonoloop.model.processor import END_OF_TURN, EchoVLMProcessor

WORDS = (
    "echo",
    "probe",
    "depth",
    "gain",
    "focus",
    "beam",
    "lateral",
    "axial",
    "shadow",
    "margin",
    "oval",
    "round",
)


@pytest.fixture(scope="session")
def untrained_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 12)) for _ in range(400)]
    tokenizer = train_tokenizer(texts, vocab_size=640)
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": MAX_PIXELS})
    EchoVLMProcessor(images, tokenizer).save(folder)
    torch.manual_seed(0)
    config = nano_config(NanoConfig(vocab_size=len(tokenizer)))
    model = EchoVLMForConditionalGeneration._from_config(config)
    with torch.no_grad():
        # An untrained model repeats itself: its layers add little to the last embedding, which
        # is also the output's. Larger layers bring the context in, random signs part output from input.
        for weight in model.model.language_model.layers.parameters():
            weight.mul_(6.0 if weight.dim() > 1 else 1.0)
        norm = model.model.language_model.norm.weight
        norm.copy_(20.0 * torch.randn_like(norm))
        # Logit 0 for the tokens that end an answer, which is never the largest: answers go on to their limit.
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids([END_OF_TEXT, END_OF_TURN])] = 0
    save_model(model, folder)
    return folder


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """Makes an image file of seeded noise."""

    def make(kind: str = "PNG", size: tuple[int, int] = (96, 64), seed: int = 0) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        return stream.getvalue()

    return make


@pytest.fixture(scope="session")
def data_uri() -> Callable[[bytes], str]:
    """Writes bytes as a data URI."""
    return lambda data: f"data:image/png;base64,{base64.b64encode(data).decode()}"
