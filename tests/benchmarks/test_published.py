"""The baseline of the benchmarks is the published model: same numbers as the golden fixtures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.published import PublishedEchoVLM, as_published, generate_rows
from torch import Tensor

from sonoloop.model.checkpoint import load_model
from sonoloop.model.modeling import image_token_types

FIXTURES = Path(__file__).parent.parent / "fixtures"
TOLERANCE = 1e-4  # largest absolute difference, float32

Case = tuple[PublishedEchoVLM, dict[str, Tensor], dict[str, Tensor]]


@pytest.fixture(scope="module", params=["echovlm-tiny", "echovlm-tiny-hd32"])
def case(request: pytest.FixtureRequest) -> Case:
    """A golden model as baseline, its batch, and what the published code answered."""
    torch.set_num_threads(1)
    folder = FIXTURES / request.param
    with np.load(folder / "io.npz") as file:
        io = {key: torch.from_numpy(file[key]) for key in file.files}
    model = load_model(folder)
    batch = {key: io[key] for key in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")}
    batch["mm_token_type_ids"] = image_token_types(io["input_ids"], model.config)
    return as_published(model), batch, io


def test_image_features_logits_and_router_logits_are_the_golden_ones(case: Case) -> None:
    baseline, batch, io = case
    with torch.no_grad():
        features = baseline.get_image_features(batch["pixel_values"], batch["image_grid_thw"]).pooler_output
        output = baseline(**batch, output_router_logits=True)
    torch.testing.assert_close(torch.cat(features), io["visual"], atol=TOLERANCE, rtol=0)
    real_BT = batch["attention_mask"].bool()  # sdpa gives padding other values than eager
    torch.testing.assert_close(output.logits[real_BT], io["logits"][real_BT], atol=TOLERANCE, rtol=0)
    found, expected = torch.stack(output.router_logits), io["router_logits"]
    real_N = real_BT.flatten()
    torch.testing.assert_close(found[:, real_N], expected[:, real_N], atol=TOLERANCE, rtol=0)


def test_greedy_tokens_are_the_golden_ones_cut_to_each_rows_length(case: Case) -> None:
    baseline, batch, io = case
    expected = io["generated"][:, batch["input_ids"].shape[1] :]
    lengths = [16, 3, 9, 12][: len(expected)]
    found = generate_rows(baseline, batch, lengths)
    assert [len(row) for row in found] == lengths
    assert all(torch.equal(row, full[: len(row)]) for row, full in zip(found, expected, strict=True))


def test_prefill_computes_the_logits_of_every_prompt_position(case: Case) -> None:
    baseline, batch, _ = case
    shapes: list[torch.Size] = []
    hook = baseline.lm_head.register_forward_hook(lambda _m, _i, output: shapes.append(output.shape))
    generate_rows(baseline, batch, 2)
    hook.remove()
    assert [shape[1] for shape in shapes] == [batch["input_ids"].shape[1], 1]


def test_the_baseline_shares_no_memory_with_its_source(case: Case) -> None:
    baseline = case[0]
    model = load_model(FIXTURES / "echovlm-tiny")
    copy = as_published(model)
    pointers = {parameter.data_ptr() for parameter in model.parameters()}
    assert all(parameter.data_ptr() not in pointers for parameter in copy.parameters())
    assert type(copy) is type(baseline)
