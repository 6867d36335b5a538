"""What a challenger must show before it drafts."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Measure = Literal["calibration", "experts", "speed"]
"""What may turn out not to be measured."""


class GateConfig(BaseModel):
    """When a challenger has won: all of this must hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_cases: int = Field(default=10, ge=1, description="held-out cases below which the gate refuses")
    min_gain: float = Field(
        default=0.0, description="entity macro-F1 must rise by more than this, shown with gate.confidence"
    )
    confidence: float = Field(
        default=0.95, gt=0.5, lt=1, description="of the lower bound of the gain, one-sided"
    )
    power: float = Field(
        default=0.8, gt=0.5, lt=1, description="chance of showing a real gain that `cases needed` aims at"
    )
    max_edits_rise: float = Field(default=0.0, description="edits per case may rise by this much")
    min_organ_cases: int = Field(
        default=30, ge=2, description="held-out cases of an organ below which it is not judged by itself"
    )
    organ_margin: float = Field(
        default=0.1, gt=0, description="macro-F1 on a judged organ must not fall by this much or more"
    )
    organ_confidence: float = Field(
        default=0.9, gt=0.5, lt=1, description="of the lower bound of an organ's change, one-sided"
    )
    max_unusable_rise: int = Field(
        default=0, ge=0, description="held-out cases more that may lack a valid draft or a part of the report"
    )
    max_ece_rise: float = Field(
        default=0.1, ge=0, le=1, description="calibration error of the drafted values may rise by this much"
    )
    min_expert_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="least share that an expert got of the tokens in the last epoch; 1 is an even share",
    )
    max_slowdown: float = Field(
        default=2.0, gt=0, description="seconds of a model actor per case, as a multiple of the champion's"
    )
    may_be_unmeasured: frozenset[Measure] = Field(
        default=frozenset({"speed"}), description="checks that pass where there is nothing to measure by"
    )
