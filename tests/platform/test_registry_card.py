"""The model card: Hugging Face can read it, it says what is known, and it is no part of a version's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.numpy import save_file

from sonoloop.platform import registry
from sonoloop.platform.workspace import Store

BROUGHT = "---\nlicense: apache-2.0\n---\n\n# The base\n"
FIGURES = {
    "model_version": "line/x",
    "figures": {
        "overall": {
            "num_cases": 40,
            "entity_macro_f1": {"value": 0.61, "low": 0.52, "high": 0.7, "n": 40},
            "box_iou": None,
        },
        "organs": {"liver": {"num_cases": 12345}},
    },
}


@pytest.fixture
def workspace(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "workspace"))


def published(workspace: Store, tmp_path: Path, value: float, *, card: str = "", **lineage: Any) -> str:
    folder = tmp_path / f"model-{value}"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    save_file({"w": np.full(3, value, np.float32)}, folder / "model.safetensors")
    if card:
        (folder / "README.md").write_text(card)
    return registry.publish(workspace, folder, "line", lineage=lineage)


def card_of(workspace: Store, version: str) -> ModelCard:
    return ModelCard(workspace.read_bytes("models", version, "README.md").decode())


@pytest.fixture
def trained(workspace: Store, tmp_path: Path) -> str:
    """A version with everything beside it."""
    base = published(workspace, tmp_path, 0, card=BROUGHT, base="published by init")
    snapshot = {"name": "s1", "num_train": 31, "num_test": 9}
    workspace.write_bytes(json.dumps(snapshot).encode(), "training", "s1", "snapshot.json")
    version = published(
        workspace, tmp_path, 1, base=base, snapshot="s1", run="finetune-7", recipe={"name": "corrections"}
    )
    workspace.write_bytes(json.dumps(FIGURES).encode(), "models", version, "evaluations", "s1.json")
    decision = {"promoted": True, "reason": "better on 40 cases", "decided_at": "2026-03-01"}
    workspace.write_bytes(json.dumps(decision).encode(), "models", version, "decision.json")
    seen = registry.read_aliases(workspace, "line")
    registry.set_aliases(workspace, "line", {"champion": version}, expected=seen)
    return version


def test_the_card_tells_base_snapshot_recipe_figures_decision_and_limits(
    workspace: Store, trained: str
) -> None:
    text = card_of(workspace, trained).text
    base = registry.read_lineage(workspace, trained)["base"]
    for row in (
        f"| base | {base} |",
        "| snapshot of reviews | s1 |",
        "| snapshot: train | 31 |",
        "| run | finetune-7 |",
        "| recipe name | corrections |",
        "| figures.overall.entity_macro_f1 | 0.61 | 0.52 to 0.7, n = 40 |",
        "Promoted on 2026-03-01: better on 40 cases",
        "Not a medical device",
    ):
        assert row in text
    assert "12345" not in text  # figures of a part of the cases
    assert "box_iou" not in text


def test_hugging_face_reads_the_header(workspace: Store, trained: str) -> None:
    data = card_of(workspace, trained).data
    assert data.license == "apache-2.0"  # of the ancestor's card
    assert data.pipeline_tag == "image-text-to-text"
    assert data.base_model == registry.read_lineage(workspace, trained)["base"]
    figures = {result.metric_type: result.metric_value for result in data.eval_results or []}
    assert figures["figures.overall.entity_macro_f1"] == 0.61


def test_what_happened_to_a_version_changes_its_card_and_not_its_name(
    workspace: Store, trained: str, tmp_path: Path
) -> None:
    before = workspace.read_bytes("models", trained, "README.md")
    assert published(workspace, tmp_path, 1, base="another") == trained
    assert workspace.read_bytes("models", trained, "README.md") == before
    assert "README.md" not in registry.read_manifest(workspace, trained)
    workspace.write_bytes(b'{"promoted": false, "reason": "worse"}', "models", trained, "decision.json")
    registry.write_card(workspace, trained)
    assert "Not promoted" in card_of(workspace, trained).text


def test_a_card_that_came_with_a_model_is_never_touched(workspace: Store, tmp_path: Path) -> None:
    base = published(workspace, tmp_path, 0, card=BROUGHT, base="published by init")
    workspace.write_bytes(json.dumps(FIGURES).encode(), "models", base, "evaluations", "s1.json")
    registry.write_card(workspace, base)
    assert workspace.read_bytes("models", base, "README.md").decode() == BROUGHT


@pytest.mark.parametrize("damage", [b"", b"[]", b"{", b'{"figures": {"a": {"value": "x"}}}'])
def test_evaluations_of_another_shape_leave_a_card_that_can_be_read(
    workspace: Store, tmp_path: Path, damage: bytes
) -> None:
    version = published(workspace, tmp_path, 2, base="built in")
    workspace.write_bytes(damage, "models", version, "evaluations", "s1.json")
    registry.write_card(workspace, version)
    card = card_of(workspace, version)
    assert card.data.license is None
    assert "not recorded" in card.text


def test_a_version_that_is_not_there_gets_no_card(workspace: Store, tmp_path: Path) -> None:
    registry.write_card(workspace, "line/nowhere")
    assert not Path(workspace.uri).exists()
