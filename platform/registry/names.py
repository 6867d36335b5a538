"""What the registry's files are called, and where a version's lie."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

ROOM = "models"
MANIFEST, LINEAGE, CARD = "manifest.json", "lineage.json", "README.md"
DECISION, EVALUATIONS, RETIRED = "decision.json", "evaluations", "retired.json"
OURS = (MANIFEST, LINEAGE, CARD, DECISION, "decision.md", "calibration.json", RETIRED)
"""Written beside a version, some of them after it was published: no part of what its name hashes."""


class ModelConfig(BaseModel):
    """Which model line drafts and answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(default="echovlm-nano", description="name in the registry")


def place_of(model_version: str) -> tuple[str, str, str]:
    """Where a version lies in the workspace; without a version, a place where none does."""
    name, _, version = model_version.partition("/")
    return (ROOM, name or "-", version or "-")
