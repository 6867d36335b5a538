"""A folder loaded part by part is what it is loaded whole, and no two parts need be held at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_batch, tiny_model
from torch import nn

from sonoloop.model.checkpoint import load_model, save_model
from sonoloop.model.loading import load_by_parts
from sonoloop.platform.errors import CheckpointError


@pytest.mark.parametrize("tied", [False, True])
def test_part_by_part_gives_the_same_model_bit_for_bit(tmp_path: Path, tied: bool) -> None:
    save_model(tiny_model(tie_word_embeddings=tied), tmp_path / "base")
    whole = load_model(tmp_path / "base", dtype=torch.bfloat16)
    parts: list[nn.Module] = []
    found = load_by_parts(tmp_path / "base", parts.append, dtype=torch.bfloat16).eval()
    assert len(parts) == len(set(parts)) > 30
    assert [name for name, _ in found.named_parameters()] == [name for name, _ in whole.named_parameters()]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    assert (found.lm_head.weight is found.model.language_model.embed_tokens.weight) == tied
    batch = tiny_batch()
    batch["pixel_values"] = batch["pixel_values"].bfloat16()
    with torch.no_grad():
        assert torch.equal(found(**batch).logits, whole(**batch).logits)


def test_whoever_takes_parts_away_never_holds_more_than_one(tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path / "base")
    held: list[int] = []
    seen: list[nn.Module] = []

    def take(part: nn.Module) -> None:
        seen.append(part)
        held.append(sum(parameter.nbytes for one in seen for parameter in one.parameters(recurse=False)))
        for parameter in part.parameters(recurse=False):
            parameter.data = torch.empty(0)

    model = load_by_parts(tmp_path / "base", take)
    largest = max(sum(p.nbytes for p in m.parameters(recurse=False)) for m in tiny_model().modules())
    assert max(held) == largest
    assert all(parameter.numel() == 0 for parameter in model.parameters())


def test_a_folder_of_other_weights_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path / "base")
    config = tmp_path / "base/config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 1'))
    with pytest.raises(CheckpointError, match="unexpected weights"):
        load_by_parts(tmp_path / "base", lambda _: pytest.fail("nothing is to be loaded"))
