"""How to reach Label Studio. Its key comes from ``LABEL_STUDIO_API_KEY`` only and is never part of this."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from sonoloop.platform.errors import ConfigError
from sonoloop.platform.labelstudio.page import build_page
from sonoloop.platform.labelstudio.page_words import Language
from sonoloop.platform.lexicon import Organ

KEY_VARIABLE = "LABEL_STUDIO_API_KEY"


class LabelStudioConfig(BaseModel):
    """The server, the project and the pace."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(
        default="http://127.0.0.1:8080", pattern=r"^https?://[^/\s]+", description="address of Label Studio"
    )
    project: str = Field(
        default="Ultrasound review",
        min_length=1,
        max_length=50,
        description="project title; created if absent",
    )
    page: Literal["universal"] | Organ = Field(
        default="universal",
        description="fields of the page: of all organs, or of the one organ of the project",
    )
    language: Language = Field(default="en", description="in which the page is shown; it stores English")
    s3_endpoint: str | None = Field(
        default=None,
        description="S3 endpoint as Label Studio and the browser reach it; the job's own if absent",
    )
    presign: bool = Field(
        default=True, description="browser loads images from S3 by presigned URL; else through Label Studio"
    )
    presign_minutes: int = Field(default=240, ge=1, le=10_080, description="life of a presigned URL, minutes")
    import_batch: int = Field(default=500, ge=1, le=1000, description="tasks or predictions per import call")
    page_size: int = Field(default=200, ge=1, le=1000, description="tasks per page when listing")
    overlap_s: float = Field(
        default=300,
        ge=0,
        description="a pull looks this far behind its mark, seconds; rows repeat, none is lost",
    )
    timeout_s: float = Field(default=60, gt=0, description="longest wait for an answer, seconds")
    import_timeout_s: float = Field(default=120, gt=0, description="as timeout_s, for imports, seconds")
    patience_s: float = Field(
        default=120,
        ge=0,
        description="seconds that a server which answered before is waited for when it is away or busy",
    )
    ca_file: Path | None = Field(
        default=None, description="certificates of an own authority, PEM; SSL_CERT_FILE does the same"
    )
    max_attempts: int = Field(
        default=3, ge=1, description="sends of one batch; before each the server is asked what it has"
    )


def configured_page(config: LabelStudioConfig) -> str:
    """The project's labeling configuration."""
    return build_page(None if config.page == "universal" else config.page, config.language)


def api_key() -> SecretStr:
    """The key from the environment: a personal access token, or a legacy token where the server allows it.

    Raises:
        ConfigError: it is not set.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise ConfigError(
            f"{KEY_VARIABLE} is not set; make a personal access token in Label Studio under "
            "Account & Settings and export it"
        )
    return SecretStr(key)
