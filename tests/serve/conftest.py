"""A small model folder that knows nothing: its answers are long, varied and reproducible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sonoloop.model.checkpoint import save_model
from sonoloop.model.configuration import EchoVLMConfig
from sonoloop.model.decoding import END_OF_TEXT
from sonoloop.model.modeling import EchoVLMForConditionalGeneration
from sonoloop.model.nano.tokenizer import SPECIAL_TOKENS, train_tokenizer
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


def small_config(vocab_size: int) -> EchoVLMConfig:
    ids = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    return EchoVLMConfig(
        text_config={
            "vocab_size": vocab_size,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "max_position_embeddings": 2048,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 48,
            "shared_expert_intermediate_size": 48,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={"depth": 2, "embed_dim": 64, "hidden_size": 96, "num_heads": 2, "mlp_ratio": 2},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


@pytest.fixture(scope="session")
def untrained_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 12)) for _ in range(400)]
    tokenizer = train_tokenizer(texts, vocab_size=640)
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 224 * 168})
    EchoVLMProcessor(images, tokenizer).save(folder)
    torch.manual_seed(0)
    model = EchoVLMForConditionalGeneration._from_config(small_config(len(tokenizer)))
    with torch.no_grad():
        # An untrained model repeats itself: its layers add little to the last embedding, which
        # is also the output's. Larger layers bring the context in, random signs part output from input.
        for weight in model.model.language_model.layers.parameters():
            weight.mul_(6.0 if weight.dim() > 1 else 1.0)
        norm = model.model.language_model.norm.weight
        norm.copy_(20.0 * torch.randn_like(norm))
        # Logit 0 for the tokens that end an answer, which is never the largest: answers go on to their limit.
        # Larger logits for words, since text is streamed from space to space.
        embeddings = model.get_input_embeddings().weight
        embeddings[tokenizer.convert_tokens_to_ids([END_OF_TEXT, END_OF_TURN])] = 0
        embeddings[[i for token, i in tokenizer.get_vocab().items() if token.startswith("Ġ")]] *= 3
    save_model(model, folder)
    return folder
