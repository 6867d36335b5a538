"""When a month counts as having moved."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class DriftConfig(BaseModel):
    """Drift between a month and those before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    reference_months: int = Field(default=6, ge=1, description="months before, that a month is held against")
    min_values: int = Field(
        default=50, ge=2, description="values on each side, below which nothing is compared"
    )
    mean_shift: float = Field(
        default=0.5, gt=0, description="difference of means that counts, in standard deviations of a value"
    )
    mix_shift: float = Field(
        default=0.2, gt=0, le=1, description="Jensen-Shannon distance of two mixes that counts, 0..1"
    )
    false_alarms: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="share of months without any change that may raise one",
    )
    pictures: int = Field(
        default=200,
        ge=0,
        description="cases of a month and scanner whose first picture is measured",
    )
