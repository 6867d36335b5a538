"""Which options of the profile apply."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

CONFIDENTIALITY_VERSION = "1"
"""Written into every header; changes whenever the same header could come out otherwise."""

PrivateTag = Annotated[str, Field(pattern=r"^[0-9a-f]{3}[13579bdf]xx[0-9a-f]{2}$")]
"""Group and element of a private attribute, its block left open, as vendors print it: ``0019xx10``."""


class ConfidentialityConfig(BaseModel):
    """The basic profile's options; each is off unless it says otherwise.

    Overlays, curves, icons and graphic annotations never pass, so there is no option to clean them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    dates: Literal["remove", "shift", "keep"] = Field(
        default="shift",
        description="shift: all dates of a patient by one secret number of whole days; times of day stay",
    )
    retain_uids: bool = Field(default=False, description="keep the UIDs instead of keyed hashes")
    retain_device_identity: bool = Field(default=False, description="keep station, serial numbers, probes")
    retain_institution_identity: bool = Field(default=False, description="keep the institution's name")
    retain_patient_characteristics: bool = Field(
        default=False, description="keep sex, age (90 and more becomes 90), size, weight, smoking status"
    )
    clean_descriptors: bool = Field(
        default=False, description="keep the words of descriptions that the lexicon knows, not only none"
    )
    clean_structured_content: bool = Field(
        default=False, description="keep acquisition contexts and content trees, cleaned item by item"
    )
    keep_private: tuple[tuple[str, PrivateTag], ...] = Field(
        default=(), description="private attributes to keep: (private creator, tag such as 0019xx10)"
    )
