"""How large the demo is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class DemoConfig(BaseModel):
    """Numbers of studies and of cases read; the defaults fit 12 minutes on 2 cores."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    num_known: int = Field(default=90, description="breast and thyroid studies")
    num_new: int = Field(default=200, description="liver and kidney studies")
    num_reviewed: int = Field(default=180, description="cases read in round 0")
    num_reviewed_again: int = Field(default=40, description="cases read in round 1")
    seed: int = Field(default=7, description="of the phantoms")
    epochs: int = Field(default=12, description="of the fine-tuning")
    learning_rate: float = Field(
        default=5e-4, description="best of 5e-4, 1e-3, 2e-3, 3e-3 for the nano model"
    )
