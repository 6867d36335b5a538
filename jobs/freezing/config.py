"""What a training snapshot is made of, as settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class SnapshotConfig(BaseModel):
    """What a training snapshot is made of; `sonoloop.jobs.freezing.weights` has the formula of weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    min_train: int = Field(
        default=8, ge=1, description="rows to learn from below which no snapshot is frozen"
    )
    imported: tuple[str, ...] = Field(
        default=(), description="names of sets that `sonoloop import` brought in, learned from as well"
    )
    changed_gain: float = Field(
        default=1.0, ge=0, description="how much more a review counts when people changed all its fields"
    )
    agreement_gain: float = Field(
        default=0.25,
        ge=0,
        lt=1,
        description="how much more a review counts when all its readers agree, and less when none do",
    )
    quality_prior: float = Field(
        default=10, gt=0, description="known cases at which a reader's own quality counts as much as the mean"
    )
    min_weight: float = Field(default=0.25, gt=0, le=1, description="of a row; the mean of all is 1")
    max_weight: float = Field(default=4.0, ge=1, description="of a row")
