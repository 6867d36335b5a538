"""Settings of de-identification; every verb reads them, few clean a picture."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class DeidentifyConfig(BaseModel):
    """How pixels are cleaned."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    pictures_are_clean: bool = Field(
        default=False,
        description="look for no text, accept objects without regions; only for archives cleaned before",
    )
    text_without_regions: Literal["quarantine", "mask"] = Field(
        default="quarantine",
        description="what becomes of objects that declare no ultrasound region and hold text",
    )
    max_masked_share: float = Field(
        default=0.3, gt=0, le=1, description="masked share of the picture above which it is quarantined"
    )
