from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from tests.model.test_parity import NAMES, load, model_inputs, read_io
from tests.model.tiny import tiny_batch, tiny_model
from torch import nn

from sonoloop.model import nano
from sonoloop.model.engine import TransformersEngine
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.modeling import EchoVLMForConditionalGeneration
from sonoloop.model.packed import PackedExperts, PackedLinear, can_pack, pack_for_inference

pytestmark = pytest.mark.skipif(
    not can_pack(torch.device("cpu"), torch.float32), reason="this torch has no oneDNN linear"
)


def packed_copy(model: EchoVLMForConditionalGeneration) -> EchoVLMForConditionalGeneration:
    copy = deepcopy(model)
    pack_for_inference(copy)
    return copy


@torch.inference_mode()
@pytest.mark.parametrize("name", NAMES)
def test_packed_weights_give_the_published_numbers(name: str) -> None:
    io, model = read_io(name), packed_copy(load(name))
    output = model(**model_inputs(io, model.config))
    torch.testing.assert_close(output.logits, io["logits"], atol=1e-4, rtol=0)
    model.generation_config.eos_token_id = None
    tokens = model.generate(**model_inputs(io, model.config), max_new_tokens=16, do_sample=False)
    assert torch.equal(tokens, io["generated"])


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_experts", "num_active"), [(1, 1), (4, 2), (8, 8)])
def test_any_experts_may_be_packed(dtype: torch.dtype, num_experts: int, num_active: int) -> None:
    if not can_pack(torch.device("cpu"), dtype):
        pytest.skip(f"this CPU has no kernels for {dtype}")
    model = tiny_model(num_experts=num_experts, num_experts_per_tok=num_active).to(dtype)
    inputs = tiny_batch()
    expected, found = model(**inputs).logits, packed_copy(model)(**inputs).logits
    real = inputs["attention_mask"].bool()
    if dtype is torch.float32:
        torch.testing.assert_close(found[real], expected[real], atol=1e-4, rtol=0)
    else:  # as between two implementations of the plain layers: rounding, and a token near a tie of experts
        assert (found[real] - expected[real]).float().abs().mean() < 0.015


def test_nothing_plain_is_left_and_the_router_stays() -> None:
    model = packed_copy(tiny_model())
    kinds = [type(module) for module in model.modules()]
    assert not any(issubclass(kind, nn.Linear) for kind in kinds)
    assert kinds.count(PackedExperts) == 2
    assert kinds.count(PackedLinear) > 20
    assert model.model.language_model.layers[0].moe.gate.weight.dtype is torch.float32


@pytest.mark.parametrize("can", [True, False])
def test_a_cpu_without_bfloat16_keeps_its_layers_for_it(can: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sonoloop.model.packed._computes_in_bf16", lambda: can)
    assert can_pack(torch.device("cpu"), torch.float32)
    assert can_pack(torch.device("cpu"), torch.bfloat16) is can


def test_an_engine_on_cpu_is_packed() -> None:
    engine = TransformersEngine(nano.folder(), EngineConfig(device="cpu", dtype="float32"))
    assert isinstance(engine.backend.model.lm_head, PackedLinear)


@pytest.mark.parametrize(
    ("device", "dtype"), [("cuda", torch.bfloat16), ("cpu", torch.float16), ("meta", torch.float32)]
)
def test_other_devices_and_dtypes_keep_their_layers(device: str, dtype: torch.dtype) -> None:
    assert not can_pack(torch.device(device), dtype)


@torch.inference_mode()
def test_no_token_gives_no_row() -> None:
    linear = PackedLinear(nn.Linear(8, 6))
    assert linear(torch.zeros(2, 0, 8)).shape == (2, 0, 6)
