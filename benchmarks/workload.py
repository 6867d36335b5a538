"""What the benchmarks of generation run on: a model with random weights, and requests of mixed size."""

from __future__ import annotations

import numpy as np
import torch

from sonoloop.model.configuration import EchoVLMConfig
from sonoloop.model.generation import Prompt, Request, Turn
from sonoloop.model.modeling import EchoVLMForConditionalGeneration
from sonoloop.model.patches import PATCH_DIM, Patches

PAD, IMAGE, VISION_START, VISION_END, FIRST_WORD = 0, 1, 2, 3, 8
SIZES: dict[str, dict[str, int]] = {
    # ratios of the branches as in the full-size configuration
    "0.25b": {
        "hidden": 768,
        "layers": 12,
        "heads": 12,
        "kv_heads": 4,
        "vocab": 32_000,
        "vision": 512,
        "depth": 8,
    },
    "2b": {
        "hidden": 1536,
        "layers": 28,
        "heads": 12,
        "kv_heads": 2,
        "vocab": 151_936,
        "vision": 1280,
        "depth": 32,
    },
}


def build_model(
    size: str, dtype: torch.dtype, device: str, *, vocab: int | None = None
) -> EchoVLMForConditionalGeneration:
    """Random weights of one of `SIZES`, scaled so that greedy answers wander."""
    s = SIZES[size]
    head_dim = s["hidden"] // s["heads"]
    config = EchoVLMConfig(
        text_config={
            "vocab_size": vocab or s["vocab"],
            "hidden_size": s["hidden"],
            "intermediate_size": int(s["hidden"] * 5.28) // 64 * 64,
            "num_hidden_layers": s["layers"],
            "num_attention_heads": s["heads"],
            "num_key_value_heads": s["kv_heads"],
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": int(s["hidden"] * 0.393) // 32 * 32,
            "shared_expert_intermediate_size": int(s["hidden"] * 1.572) // 32 * 32,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [head_dim // 8, head_dim * 3 // 16, head_dim * 3 // 16],
            },
            "pad_token_id": PAD,
        },
        vision_config={
            "depth": s["depth"],
            "embed_dim": s["vision"],
            "hidden_size": s["hidden"],
            "num_heads": s["vision"] // 64,
        },
        image_token_id=IMAGE,
        video_token_id=4,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = EchoVLMForConditionalGeneration._from_config(config, dtype=dtype)
    with torch.no_grad():
        model.model.language_model.norm.weight.mul_(20.0)
    return model.eval()  # type: ignore[no-any-return]


def draw_requests(num: int, image_px: int, vocab: int, seed: int) -> list[Request]:
    """Mixed requests: images as noise of one size, words as random ids."""
    rng = np.random.default_rng(seed)
    side = image_px // 14
    requests = []
    for _ in range(num):
        num_images = int(rng.choice(8, p=[0.25, 0.25, 0.15, 0.12, 0.08, 0.06, 0.05, 0.04])) + 1
        num_new = int(np.clip(rng.lognormal(np.log(110), 0.55), 40, 400))
        grids = np.tile(np.array([[1, side, side]]), (num_images, 1))
        image = [VISION_START, *[IMAGE] * (side * side // 4), VISION_END]
        words = rng.integers(FIRST_WORD, vocab, int(rng.integers(20, 121))).tolist()
        patches = rng.normal(size=(num_images * side * side, PATCH_DIM)).astype(np.float32)
        requests.append(
            Request(Prompt(image * num_images + words, Patches(patches), grids), (Turn(num_new),))
        )
    return requests
