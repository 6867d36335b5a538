"""A dense Qwen2-VL becomes an EchoVLM that starts as the same function and can leave it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny import randomise, tiny_batch, tiny_config
from torch import Tensor
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from sonoloop.model import nano
from sonoloop.model.checkpoint import INDEX_FILE, WEIGHTS_FILE, is_echovlm, load_model
from sonoloop.model.configuration import MOE_FIELDS
from sonoloop.model.modeling import EchoVLMForConditionalGeneration
from sonoloop.model.upcycle import UpcycleConfig, main, upcycle
from sonoloop.platform.errors import CheckpointError

COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "chat_template.jinja")
SMALL = UpcycleConfig(moe_intermediate_size=24, shared_expert_intermediate_size=40)

Dense = Qwen2VLForConditionalGeneration


def dense_model(*, tied: bool = False) -> Dense:
    """transformers' own dense model, tiny, with weights that matter."""
    config = tiny_config(tie_word_embeddings=tied).to_dict()
    text_fields = Qwen2VLConfig().text_config.to_dict().keys()
    text = {key: value for key, value in config["text_config"].items() if key in text_fields}
    roots = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    dense_config = Qwen2VLConfig(
        text_config=text | {"model_type": "qwen2_vl_text"},
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2},
        tie_word_embeddings=tied,
        **{key: config[key] for key in roots},
    )
    model = Dense._from_config(dense_config)
    randomise(model, seed=3)
    model.tie_weights()
    return model.eval()  # type: ignore[no-any-return]


def published_config(model: Dense) -> dict[str, object]:
    """The flat ``config.json`` of a Qwen2-VL release: the fields of Qwen2-VL-2B-Instruct's, our sizes."""
    text = model.config.text_config
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    names += ("num_key_value_heads", "rms_norm_eps", "max_position_embeddings", "hidden_act", "use_cache")
    names += ("bos_token_id", "eos_token_id", "initializer_range", "attention_dropout")
    roots = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "torch_dtype": str(model.dtype).removeprefix("torch."),
        "transformers_version": "4.41.2",
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "sliding_window": 32768,
        "use_sliding_window": False,
        "max_window_layers": 28,
        "tie_word_embeddings": model.config.tie_word_embeddings,
        "vision_config": {
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 64,
            "in_chans": 3,
            "mlp_ratio": 4,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
        **{name: getattr(text, name) for name in names},
        **{name: getattr(model.config, name) for name in roots},
    }


def write_dense(model: Dense, folder: Path, *, max_shard_size: str = "5GB", nested: bool = False) -> Path:
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    if not nested:
        (folder / "config.json").write_text(json.dumps(published_config(model)))
    for name in COMPANIONS:
        shutil.copy(nano.folder() / name, folder / name)
    (folder / "README.md").write_text("the card of the dense model")
    return folder


@torch.no_grad()
def assert_same_function(dense_folder: Path, grown_folder: Path, dtype: torch.dtype = torch.float32) -> None:
    dense, grown = Dense.from_pretrained(dense_folder, dtype=dtype).eval(), load_model(grown_folder)
    assert {parameter.dtype for parameter in grown.parameters()} == {dtype}
    batch = tiny_batch()
    assert torch.equal(grown(**batch).logits, dense(**batch).logits)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(grown.generate(**batch, **options), dense.generate(**batch, **options))


@pytest.mark.parametrize("start", ["slices", "noise"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_forward_is_the_dense_models_bit_for_bit(
    start: str, tied: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = write_dense(dense_model(tied=tied).to(dtype), tmp_path / "dense")
    upcycle(folder, tmp_path / "grown", UpcycleConfig.model_validate(SMALL.model_dump() | {"start": start}))
    assert_same_function(folder, tmp_path / "grown", dtype)


def nest_as_transformers_4_52(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config["text_config"].pop("rope_parameters")
    config["text_config"] |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("layout", ["flat", "nested", "nested by 4.52"])
def test_a_sharded_folder_of_any_configuration_layout_grows(layout: str, tmp_path: Path) -> None:
    nested = layout != "flat"
    folder = write_dense(dense_model(), tmp_path / "dense", max_shard_size="200KB", nested=nested)
    if layout == "nested by 4.52":
        nest_as_transformers_4_52(folder)
    assert (folder / INDEX_FILE).exists()
    upcycle(folder, tmp_path / "grown", UpcycleConfig(num_experts=8, num_experts_per_tok=3))
    assert_same_function(folder, tmp_path / "grown")
    config = json.loads((tmp_path / "grown" / "config.json").read_text())
    assert [config[field] for field in MOE_FIELDS] == [8, 3, 1408, 5632]
    assert config["architectures"] == ["Qwen2VLMOEForConditionalGeneration"]
    assert config["model_type"] == "qwen2_vl"
    assert "text_config" not in config


def test_the_result_is_an_echovlm_folder_with_the_companions_of_the_dense_one(tmp_path: Path) -> None:
    write_dense(dense_model(), tmp_path / "dense")
    main([str(tmp_path / "dense"), str(tmp_path / "grown"), "--moe-intermediate-size", "24", "--seed", "5"])
    assert is_echovlm(tmp_path / "grown")
    assert load_model(tmp_path / "grown").config.text_config.moe_intermediate_size == 24
    for name in COMPANIONS:
        assert (tmp_path / "grown" / name).read_bytes() == (tmp_path / "dense" / name).read_bytes()
    assert not (tmp_path / "grown" / "README.md").exists()


def gradients(model: EchoVLMForConditionalGeneration, batch: dict[str, Tensor]) -> dict[str, float]:
    """Largest gradient of the language-model loss alone, per parameter of the first layer's branch."""
    model.zero_grad()
    loss = model(**batch, labels=batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)).loss
    loss.backward()
    layer = model.model.language_model.layers[0]
    found = {name: p.grad.abs().max().item() for name, p in layer.named_parameters() if p.grad is not None}
    return {"loss": loss.item(), **found}


@pytest.mark.parametrize("start", ["slices", "noise"])
def test_experts_router_and_coefficient_receive_gradient_after_one_step(start: str, tmp_path: Path) -> None:
    write_dense(dense_model(), tmp_path / "dense")
    config = UpcycleConfig.model_validate(SMALL.model_dump() | {"start": start})
    upcycle(tmp_path / "dense", tmp_path / "grown", config)
    model, batch = load_model(tmp_path / "grown").train(), tiny_batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    at_once = ("moe.experts.down_proj", "moe.shared_expert.down_proj.weight")
    at_once += ("coefficient.weight", "coefficient.bias")
    later = ("moe.experts.gate_up_proj", "moe.gate.weight", "moe.shared_expert_gate.weight")
    later += ("moe.shared_expert.gate_proj.weight", "moe.shared_expert.up_proj.weight")
    first = gradients(model, batch)
    assert all(first[name] > 1e-5 for name in at_once), first
    optimizer.step()
    second = gradients(model, batch)
    assert all(second[name] > 1e-7 for name in (*at_once, *later)), second
    for _ in range(8):
        optimizer.step()
        last = gradients(model, batch)
    assert last["loss"] < first["loss"]
    assert all(last[name] > 1e-6 for name in (*at_once, *later)), last
    experts = model.model.language_model.layers[0].moe.experts.down_proj
    assert (experts.detach().flatten(1).abs().amax(dim=1) > 0).all(), "every expert has learned something"


def test_slices_are_neurons_of_the_dense_mlp_none_twice_while_they_last(tmp_path: Path) -> None:
    dense = dense_model()
    write_dense(dense, tmp_path / "dense")
    narrow = UpcycleConfig(num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=32)
    upcycle(tmp_path / "dense", tmp_path / "grown", narrow)
    grown = load_model(tmp_path / "grown")
    for new, old in zip(grown.model.language_model.layers, dense.model.language_model.layers, strict=True):
        gates = torch.cat([*new.moe.experts.gate_up_proj[:, :16], new.moe.shared_expert.gate_proj.weight])
        ups = torch.cat([*new.moe.experts.gate_up_proj[:, 16:], new.moe.shared_expert.up_proj.weight])
        where = torch.cdist(gates, old.mlp.gate_proj.weight).argmin(dim=1)
        assert sorted(where.tolist()) == list(range(96))
        assert torch.equal(gates, old.mlp.gate_proj.weight[where])
        assert torch.equal(ups, old.mlp.up_proj.weight[where])


def test_the_same_seed_grows_the_same_file(tmp_path: Path) -> None:
    write_dense(dense_model(), tmp_path / "dense")
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        upcycle(tmp_path / "dense", tmp_path / name, SMALL.model_copy(update={"seed": seed}))
    one, two, three = ((tmp_path / name / WEIGHTS_FILE).read_bytes() for name in ("one", "two", "three"))
    assert one == two
    assert one != three


def test_a_folder_that_is_not_a_complete_dense_qwen2_vl_is_refused(tmp_path: Path) -> None:
    dense = write_dense(dense_model(), tmp_path / "dense")
    upcycle(dense, tmp_path / "grown", SMALL)
    with pytest.raises(CheckpointError, match="EchoVLM already"):
        upcycle(tmp_path / "grown", tmp_path / "again", SMALL)
    with pytest.raises(CheckpointError, match="already holds weights"):
        upcycle(dense, tmp_path / "grown", SMALL)
    config = json.loads((dense / "config.json").read_text())
    (dense / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match=r"missing weights \(12\): model\.layers\.2\.input_layernorm"):
        upcycle(dense, tmp_path / "new", SMALL)
    (dense / "config.json").write_text(json.dumps(config | {"model_type": "qwen2_5_vl"}))
    with pytest.raises(CheckpointError, match="qwen2_5_vl"):
        upcycle(dense, tmp_path / "new", SMALL)
    assert not (tmp_path / "new").exists()


def test_more_active_experts_than_experts_are_refused() -> None:
    with pytest.raises(ValueError, match="num_experts_per_tok must be in"):
        UpcycleConfig(num_experts=2, num_experts_per_tok=3)
