"""How results and images are exported."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from sonoloop.platform.archive.confidentiality.config import ConfidentialityConfig


class ExportFormat(StrEnum):
    """What can be written."""

    DICOM = "dicom"
    SR = "sr"
    FHIR = "fhir"
    COCO = "coco"
    JSONL = "jsonl"


class ExportConfig(BaseModel):
    """Settings of `sonoloop export`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    confidentiality: ConfidentialityConfig = ConfidentialityConfig()
