"""Published folders load complete or not at all, and come back bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GenerationConfig

from sonoloop.model.checkpoint import INDEX_FILE, WEIGHTS_FILE, is_echovlm, load_model, save_model, save_state
from sonoloop.model.configuration import MOE_FIELDS, read_config, to_published
from sonoloop.model.modeling import EchoVLMForConditionalGeneration
from sonoloop.platform.errors import CheckpointError

FIXTURES = Path(__file__).parent.parent / "fixtures"
NAMES = ("echovlm-tiny", "echovlm-tiny-hd32")

Tensors = dict[str, Tensor]
Edit = Callable[[Tensors], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A writable copy of the smaller golden model."""
    return Path(shutil.copytree(FIXTURES / NAMES[0], tmp_path / "model"))


def edit_weights(folder: Path, edit: Edit) -> None:
    tensors = load_file(folder / WEIGHTS_FILE)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", NAMES)
def test_save_writes_the_published_folder_bit_for_bit(name: str, tmp_path: Path) -> None:
    save_model(load_model(FIXTURES / name), tmp_path)
    assert (tmp_path / WEIGHTS_FILE).read_bytes() == (FIXTURES / name / WEIGHTS_FILE).read_bytes()
    found, expected = (json.loads((f / "config.json").read_text()) for f in (tmp_path, FIXTURES / name))
    assert found == expected


def test_shards_load_and_hold_the_same_tensors(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "sharded"
    save_model(load_model(folder), target, max_shard_bytes=400_000)
    shards = sorted(target.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert not (target / WEIGHTS_FILE).exists()
    expected = load_file(folder / WEIGHTS_FILE)
    found = {key: tensor for shard in shards for key, tensor in load_file(shard).items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    state = load_model(folder).state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in load_model(target).state_dict().items())


def test_saved_bfloat16_weights_load_as_they_were(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    save_model(model, tmp_path / "half")
    again = load_model(tmp_path / "half")
    assert again.dtype == torch.bfloat16
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in again.state_dict().items())


def test_loading_draws_no_random_numbers_and_touches_every_parameter(folder: Path) -> None:
    before = torch.get_rng_state()
    edit_weights(folder, lambda tensors: [tensor.fill_(0.5) for tensor in tensors.values()])
    model = load_model(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(bool((parameter == 0.5).all()) for parameter in model.parameters())
    assert not model.training


def test_rotary_frequencies_are_float32_in_a_half_precision_model(folder: Path) -> None:
    full, half = (load_model(folder, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    for model in (full, half):
        assert model.model.language_model.rotary_emb.inv_freq.dtype == torch.float32
    expected, found = dict(full.named_buffers()), dict(half.named_buffers())
    assert found
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_generation_config_in_the_folder_is_kept(folder: Path, tmp_path: Path) -> None:
    GenerationConfig(max_new_tokens=7, eos_token_id=[2, 3]).save_pretrained(folder)
    model = load_model(folder)
    save_model(model, tmp_path / "copy")
    again = load_model(tmp_path / "copy").generation_config
    assert (again.max_new_tokens, again.eos_token_id) == (7, [2, 3])


@pytest.mark.parametrize(
    "key",
    [
        "model.layers.2.coefficient.bias",
        "model.layers.0.moe.experts.3.up_proj.weight",
        "visual.merger.ln_q.bias",
        "lm_head.weight",
    ],
)
def test_a_missing_weight_is_named(folder: Path, key: str) -> None:
    edit_weights(folder, lambda tensors: tensors.pop(key))
    with pytest.raises(CheckpointError, match=rf"missing weights \(1\): {key}"):
        load_model(folder)


@pytest.mark.parametrize(
    "key", ["model.layers.0.moe.experts.4.up_proj.weight", "model.layers.3.input_layernorm.weight", "score"]
)
def test_an_extra_weight_is_named(folder: Path, key: str) -> None:
    edit_weights(folder, lambda tensors: tensors.update({key: torch.zeros(3)}))
    with pytest.raises(CheckpointError, match=rf"unexpected weights \(1\): {key}"):
        load_model(folder)


def test_missing_and_unexpected_weights_are_named_in_one_message(folder: Path) -> None:
    def rename(tensors: Tensors) -> None:
        tensors["model.layers.0.moe.router.weight"] = tensors.pop("model.layers.0.moe.gate.weight")

    edit_weights(folder, rename)
    expected = (
        r"missing weights \(1\): model\.layers\.0\.moe\.gate\.weight; "
        r"unexpected weights \(1\): model\.layers\.0\.moe\.router\.weight"
    )
    with pytest.raises(CheckpointError, match=expected):
        load_model(folder)


def test_a_weight_of_another_shape_is_named(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(3)}))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has shape \(3,\).*\(64,\)"):
        load_model(folder)


def drop_experts(tensors: Tensors) -> None:
    for key in [key for key in tensors if ".moe." in key or ".coefficient." in key]:
        del tensors[key]


def test_dense_weights_under_an_expert_config_do_not_load(folder: Path) -> None:
    edit_weights(folder, drop_experts)
    with pytest.raises(CheckpointError, match=r"missing weights \(57\): model\.layers\.0\.coefficient"):
        load_model(folder)


def test_a_dense_folder_is_not_echovlm_and_does_not_load(folder: Path) -> None:
    edit_weights(folder, drop_experts)
    published = json.loads((folder / "config.json").read_text())
    dense = {key: value for key, value in published.items() if key not in MOE_FIELDS}
    (folder / "config.json").write_text(json.dumps(dense))
    assert not is_echovlm(folder)
    with pytest.raises(CheckpointError, match="num_experts"):
        load_model(folder)


def test_echovlm_is_known_by_its_fields_or_by_its_weights(folder: Path) -> None:
    assert is_echovlm(folder)
    published = json.loads((folder / "config.json").read_text())
    assert published["model_type"] == "qwen2_vl"
    published.pop("num_experts")
    (folder / "config.json").write_text(json.dumps(published))
    assert is_echovlm(folder)


def test_swapped_coefficients_load_but_compute_something_else(folder: Path) -> None:
    def swap(tensors: Tensors) -> None:
        for key in tensors:
            if ".coefficient." in key:
                tensors[key] = tensors[key].flip(0).contiguous()

    input_ids = torch.arange(10, 30).unsqueeze(0)
    with torch.no_grad():
        expected = load_model(folder)(input_ids=input_ids).logits
        edit_weights(folder, swap)
        found = load_model(folder)(input_ids=input_ids).logits
    assert (found - expected).abs().max() > 1e-2


def test_a_tied_head_is_the_embedding_on_disk_and_in_memory(folder: Path, tmp_path: Path) -> None:
    edit_config(folder, tie_word_embeddings=True)
    edit_weights(folder, lambda tensors: tensors.pop("lm_head.weight"))
    model = load_model(folder)
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    save_model(model, tmp_path / "tied")
    assert (tmp_path / "tied" / WEIGHTS_FILE).read_bytes() == (folder / WEIGHTS_FILE).read_bytes()


def test_a_tied_head_that_differs_from_the_embedding_does_not_load(folder: Path) -> None:
    edit_config(folder, tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs"):
        load_model(folder)
    edit_weights(folder, lambda ts: ts.update({"lm_head.weight": ts["model.embed_tokens.weight"].clone()}))
    load_model(folder)


def test_a_damaged_folder_says_what_is_wrong(folder: Path) -> None:
    weights = folder / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cut short"):
        load_model(folder)
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="only safetensors"):
        load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        load_model(folder)


def test_shards_that_do_not_fit_their_index_do_not_load(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "sharded"
    save_model(load_model(folder), target, max_shard_bytes=400_000)
    index = json.loads((target / INDEX_FILE).read_text())
    shard = index["weight_map"].pop("model.norm.weight")
    (target / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"differ in model\.norm\.weight"):
        load_model(target)
    (target / shard).unlink()
    with pytest.raises(CheckpointError, match="the index names it"):
        load_model(target)
    shutil.copy(folder / WEIGHTS_FILE, target)
    with pytest.raises(CheckpointError, match="delete the stale one"):
        load_model(target)


def test_saving_over_weights_or_from_a_foreign_state_is_refused(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    with pytest.raises(CheckpointError, match="already holds weights"):
        save_model(model, folder)
    state = model.state_dict()
    state.pop("lm_head.weight")
    with pytest.raises(CheckpointError, match=r"missing weights \(1\): lm_head\.weight"):
        save_state(state, model.config, tmp_path / "cut")
    assert not (tmp_path / "cut" / "config.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts_per_tok": 5}, "num_experts_per_tok"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_scaling"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [2, 2, 2]}}, "half the head"),
    ],
)
def test_a_config_that_is_not_echovlms_is_refused(
    folder: Path, changes: dict[str, object], message: str
) -> None:
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        read_config(folder)


def test_changed_fields_are_written_and_unknown_ones_kept(folder: Path) -> None:
    edit_config(folder, vision_token_id=300)
    config = read_config(folder)
    config.text_config.router_aux_loss_coef = 0.5
    published = to_published(config, torch.bfloat16)
    assert published["router_aux_loss_coef"] == 0.5
    assert published["vision_token_id"] == 300
    assert published["torch_dtype"] == "bfloat16"


def test_transformers_own_doors_are_closed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="load_model"):
        EchoVLMForConditionalGeneration.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="save_model"):
        load_model(folder).save_pretrained(tmp_path / "saved")
