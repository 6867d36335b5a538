"""What Label Studio answers, as far as we read it; everything else in its JSON is left alone."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _user_id(value: Any) -> Any:
    return value.get("id") if isinstance(value, dict) else value


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Project(_Answer):
    """A project with its labeling configuration."""

    id: int
    title: str
    label_config: str = ""
    description: str | None = None
    task_number: int | None = 0
    model_version: str | None = None


class TaskCounts(_Answer):
    """How many annotations a task holds; skipped ones are not in ``total_annotations``."""

    id: int
    total_annotations: int = 0


class SeenPrediction(_Answer):
    """A prediction of a task."""

    id: int
    model_version: str | None = None
    score: float | None = None
    result: tuple[dict[str, Any], ...] = ()


class SeenAnnotation(_Answer):
    """What a person saved; ``result`` holds raw regions."""

    id: int
    completed_by: Annotated[int | None, BeforeValidator(_user_id)] = None
    parent_prediction: int | None = None
    was_cancelled: bool = False
    lead_time: float | None = Field(default=None, description="seconds")
    created_at: datetime
    updated_at: datetime
    result: tuple[dict[str, Any], ...] = ()


class SeenData(_Answer):
    """A task's data; a task that is not ours has no ``case_id``."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())
    case_id: str | None = None
    images: tuple[str, ...] = ()

    def shown(self) -> dict[str, Any]:
        """All of it, as it was sent."""
        return {**self.model_dump(), "images": list(self.images)}


class SeenTask(_Answer):
    """A task with everything on it."""

    id: int
    data: SeenData
    updated_at: datetime
    draft_exists: bool = False
    overlap: int = Field(default=1, description="different people who are to annotate it")
    predictions: tuple[SeenPrediction, ...] = ()
    annotations: tuple[SeenAnnotation, ...] = ()

    def prediction(self, version_name: str) -> SeenPrediction | None:
        """The oldest prediction of a model version, or ``None``."""
        found = [p for p in self.predictions if p.model_version == version_name]
        return min(found, key=lambda p: p.id) if found else None
