"""A dense Qwen2-VL as champion: it gets its experts, learns, and is published as an EchoVLM."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.jobs.learnable import NAME, config_of, make_workspace
from tests.model.tiny import randomise
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from sonoloop.jobs.finetune import run_finetune
from sonoloop.model import nano
from sonoloop.model.checkpoint import is_echovlm, load_model
from sonoloop.model.configuration import read_config
from sonoloop.platform import registry

pytestmark = pytest.mark.ray
COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "chat_template.jinja")


def write_dense(folder: Path) -> Qwen2VLForConditionalGeneration:
    """transformers' own dense model with the built-in one's vocabulary, and one layer."""
    sizes = read_config(nano.folder()).to_dict()
    known = Qwen2VLConfig().text_config.to_dict().keys() - {"layer_types"}
    text = {key: value for key, value in sizes["text_config"].items() if key in known}
    roots = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    config = Qwen2VLConfig(
        text_config=text | {"model_type": "qwen2_vl_text", "num_hidden_layers": 1},
        vision_config=sizes["vision_config"],
        tie_word_embeddings=sizes["tie_word_embeddings"],
        **{key: sizes[key] for key in roots},
    )
    model = Qwen2VLForConditionalGeneration._from_config(config, dtype=torch.float32)
    randomise(model, seed=3)
    model.tie_weights()
    model.save_pretrained(folder)
    for name in COMPANIONS:
        shutil.copy(nano.folder() / name, folder / name)
    return model


def test_a_dense_champion_gets_experts_learns_with_them_and_is_published(
    tmp_path: Path, ray_cluster: str
) -> None:
    dense = write_dense(tmp_path / "dense")
    store = make_workspace(tmp_path / "workspace")
    base = registry.publish(store, tmp_path / "dense", NAME, lineage={"base": "elsewhere"})
    before = registry.read_aliases(store, NAME)
    registry.set_aliases(store, NAME, {"champion": base}, expected=before)
    settings = {"recipe": {"name": "upcycle", "tasks": {"report": 1}}, "epochs": 1, "batch_size": 8}
    done = run_finetune(config_of(store, num_workers=1, **settings))
    assert (done.base, done.steps) == (base, 2)
    aliases = registry.read_aliases(store, NAME)
    assert (aliases.champion, aliases.challenger) == (base, done.challenger)
    folder = registry.fetch(store, done.challenger)
    assert is_echovlm(folder)
    (layer,) = load_model(folder, dtype=torch.float32).model.language_model.layers
    mlp = dense.model.language_model.layers[0].mlp
    assert torch.equal(
        layer.mlp.down_proj.weight, 2 * mlp.down_proj.weight
    )  # frozen, and doubled as upcycled
    assert layer.moe.experts.down_proj.abs().max() > 0  # zero until it learns
    lineage = json.loads(store.read_bytes("models", *done.challenger.split("/"), "lineage.json"))
    assert (lineage["base"], lineage["snapshot"], lineage["run"]) == (base, done.snapshot, done.run_id)
