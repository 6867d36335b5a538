"""How the archive is read."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from sonoloop.platform.archive.deidentify.config import DeidentifyConfig


class IndexConfig(BaseModel):
    """How the archive is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    manifest: str | None = Field(
        default=None,
        description="S3 Inventory (its manifest.json), or CSV or Parquet with a column uri or key, "
        "instead of listing the archive",
    )
    key_frames: int = Field(default=2, ge=1, description="frames taken from one cine loop, at most")
    max_images: int = Field(default=4, ge=1, description="images of one case, at most")
    max_object_bytes: int = Field(
        default=2**31, ge=1, description="a larger object is rejected before it is opened"
    )
    batch_size: int = Field(default=64, ge=1, description="instances whose frames one task prepares")
    requests_at_once: int = Field(default=16, ge=1, description="objects that one task opens at a time")
    tries: int = Field(
        default=6, ge=1, description="tries of one request that failed for a while, with growing pauses"
    )
    deidentify: DeidentifyConfig = DeidentifyConfig()
