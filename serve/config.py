"""Settings of the serving room: ``[serve]``, and the sections that it shares with the jobs.

One TOML file belongs to both rooms, so the root leaves the jobs' sections alone; every section that is read
here is checked in full.
"""

from __future__ import annotations

import os
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sonoloop.model.engine_config import EngineConfig
from sonoloop.platform.cluster import RayConfig, joins_cluster
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.labelstudio.config import LabelStudioConfig
from sonoloop.platform.registry import ModelConfig
from sonoloop.platform.workspace import S3Config

KEY_VARIABLE = "SONOLOOP_API_KEY"
MIN_KEY_LENGTH = 16


class DraftsConfig(BaseModel):
    """Drafts for Label Studio, as its ML backend."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget_s: float = Field(
        default=60,
        gt=0,
        le=90,
        description="longest wait before an answer, seconds; what is not drafted by then is brought through "
        "Label Studio's API. Label Studio itself gives up after 100 s",
    )
    tasks_per_chunk: int = Field(
        default=8, ge=1, description="tasks drafted together; between two chunks others have their turn"
    )
    max_waiting: int = Field(
        default=5000, ge=1, description="tasks that may wait; further ones are sent away"
    )


class ServeConfig(BaseModel):
    """The HTTP door, what one request may bring, and the replicas behind it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(
        default=8000, ge=1, le=65_535, description="TCP port; 0 is refused, nobody would find it"
    )
    num_replicas: int = Field(default=1, ge=1, description="copies of the model")
    cpus_per_replica: float = Field(default=1, gt=0, description="logical CPUs held by a replica")
    gpus_per_replica: float = Field(default=0, ge=0, description="GPUs held by a replica")
    max_ongoing: int = Field(
        default=2, ge=1, description="requests inside one replica: one is answered, the others are prepared"
    )
    max_queued: int = Field(default=16, ge=0, description="requests that wait; one more is told to come back")
    max_body_bytes: int = Field(default=20 * 2**20, ge=1024, description="size of a request's body, bytes")
    max_images: int = Field(default=8, ge=1, description="images of one request")
    max_pixels: int = Field(
        default=2**25, ge=56 * 56, description="pixels of all images of one request together"
    )
    max_tokens: int = Field(
        default=512, ge=1, description="new tokens of one answer; also what a request gets that names none"
    )
    timeout_s: float = Field(default=300, gt=0, description="longest time for one answer, seconds")
    engine: EngineConfig = EngineConfig()
    drafts: DraftsConfig | None = Field(
        default=None, description="section [serve.drafts], may be empty: be Label Studio's ML backend as well"
    )


class ServeSettings(BaseModel):
    """What ``sonoloop serve`` reads of the one settings file; sections of the jobs are left to them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    workspace: str = Field(description="s3://bucket/prefix or a folder that holds all state")
    s3: S3Config = S3Config()
    ray: RayConfig = RayConfig()
    model: ModelConfig = ModelConfig()
    labelstudio: LabelStudioConfig = LabelStudioConfig()
    serve: ServeConfig = ServeConfig()

    @model_validator(mode="after")
    def _replicas_fit(self) -> Self:
        """A Ray of our own never grows: what does not fit would wait for ever."""
        wanted = self.serve.num_replicas * self.serve.cpus_per_replica
        if not joins_cluster() and wanted > self.ray.num_cpus:
            raise ValueError(
                f"serve.num_replicas x serve.cpus_per_replica is {wanted:g} logical CPUs, ray.num_cpus is "
                f"{self.ray.num_cpus}; ask for fewer replicas or raise ray.num_cpus"
            )
        return self


def required_key() -> str:
    """The API key that askers must bring, from ``SONOLOOP_API_KEY``.

    Raises:
        ConfigError: there is none, or it could be guessed.
    """
    key = os.environ.get(KEY_VARIABLE, "")
    if len(key) < MIN_KEY_LENGTH:
        found = f"found {len(key)} characters" if key else "found none"
        raise ConfigError(
            f"expected an API key of at least {MIN_KEY_LENGTH} characters in {KEY_VARIABLE}, {found}; "
            f"make one with: export {KEY_VARIABLE}=$(openssl rand -hex 32)"
        )
    return key
