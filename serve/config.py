"""Settings of the serving room: ``[serve]``, and the sections that it shares with the jobs.

One TOML file belongs to both rooms, so the root leaves the jobs' sections alone; every section that is read
here is checked in full.
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sonoloop.model.engine_config import EngineConfig
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.cluster import RayConfig, joins_cluster
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.export.config import ExportConfig
from sonoloop.platform.labelstudio.config import LabelStudioConfig
from sonoloop.platform.logs import LogConfig
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
        default=8,
        ge=1,
        description="tasks drafted together; between two such chunks other calls of Label Studio come in. "
        "Questions and studies wait for no chunk: all share the model's steps",
    )
    max_waiting: int = Field(
        default=5000,
        ge=1,
        description="tasks that may wait, and tasks that open pages may ask for; further ones are sent away",
    )


class StudiesConfig(BaseModel):
    """Studies that come with a request, to ``/v1/drafts``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(default=256 * 2**20, ge=1024, description="size of a request's body, bytes")
    max_files: int = Field(default=500, ge=1, description="files of a study, those in zips and tars included")
    timeout_s: float = Field(
        default=180, gt=0, description="longest time for a study to be read and drafted, seconds"
    )
    readers: int = Field(
        default=1, ge=1, description="studies read at the same time, each by a process of its own"
    )
    max_waiting: int = Field(
        default=4, ge=0, description="studies that wait for a reader; one more is refused"
    )
    reader_mib: int = Field(default=4096, ge=1024, description="memory of one reader, MiB")


class UploadsConfig(BaseModel):
    """Uploaded images: they lie in the door's memory, and nowhere else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_s: float = Field(default=3600, gt=0, le=86_400, description="how long an image is kept, seconds")
    max_files: int = Field(default=64, ge=1, description="images that one key may have here")
    max_bytes: int = Field(
        default=2**28, ge=3 * 56 * 56, description="bytes that one key's images take, three a pixel"
    )
    max_total_bytes: int = Field(
        default=2**29, ge=3 * 56 * 56, description="bytes that the images of all keys take together"
    )

    @model_validator(mode="after")
    def _keys_share(self) -> Self:
        if self.max_bytes > self.max_total_bytes:
            raise ValueError(
                f"serve.uploads.max_bytes is {self.max_bytes}, of one key; max_total_bytes of all of them is "
                f"{self.max_total_bytes}; raise it"
            )
        return self


class WireConfig(BaseModel):
    """Connections, before anything is known of who calls."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head_timeout_s: float = Field(
        default=10, gt=0, description="longest time for a request's line and headers to arrive, seconds"
    )
    max_head_bytes: int = Field(
        default=32 * 2**10, ge=1024, description="size of a request's line and headers, bytes"
    )
    write_timeout_s: float = Field(
        default=60, gt=0, description="longest time for a caller to take nothing of its answer, seconds"
    )
    max_connections: int = Field(default=1000, ge=1, description="connections at once; one more is closed")


class ServeConfig(BaseModel):
    """The HTTP door, what one request may bring, and the replicas behind it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(
        default=8000, ge=1, le=65_535, description="TCP port; 0 is refused, nobody would find it"
    )
    min_replicas: int = Field(
        default=1,
        ge=0,
        description="copies of the model that stay when nobody asks; 0: the first asker waits",
    )
    max_replicas: int = Field(default=1, ge=1, description="copies of the model when many ask")
    target_ongoing: float | None = Field(
        default=None,
        gt=0,
        description="requests per copy aimed at between the two; None: three quarters of max_ongoing",
    )
    upscale_delay_s: float = Field(
        default=10, ge=0, description="how long more must be needed before a copy is added, seconds"
    )
    downscale_delay_s: float = Field(
        default=300, ge=0, description="how long fewer must do before a copy is taken away, seconds"
    )
    cpus_per_replica: float = Field(default=1, gt=0, description="logical CPUs held by a replica")
    gpus_per_replica: float = Field(default=0, ge=0, description="GPUs held by a replica")
    max_ongoing: int | None = Field(
        default=None, ge=1, description="requests inside one replica; None: what its engine writes at once"
    )
    max_queued: int = Field(default=32, ge=0, description="requests that wait; one more is told to come back")
    poll_s: float = Field(
        default=5, gt=0, description="how often the registry is asked for the champion, seconds"
    )
    start_timeout_s: float = Field(
        default=900, gt=0, description="longest time for a version to load and to answer, seconds"
    )
    max_body_bytes: int = Field(default=20 * 2**20, ge=1024, description="size of a request's body, bytes")
    max_held_bytes: int = Field(
        default=2**30,
        ge=1024,
        description="bytes of all bodies whose answers have not begun; studies have limits of their own",
    )
    max_json_values: int = Field(
        default=100_000,
        ge=1000,
        description="commas and brackets of a JSON body; a value that is wrong costs up to 1 kB to report",
    )
    body_timeout_s: float = Field(
        default=60, gt=0, description="longest time for a request's body to arrive, seconds"
    )
    max_images: int = Field(default=8, ge=1, description="images of one request")
    max_pixels: int = Field(
        default=2**25, ge=56 * 56, description="pixels of all images of one request together"
    )
    max_tokens: int = Field(
        default=512, ge=1, description="new tokens of one answer; also what a request gets that names none"
    )
    max_choices: int = Field(default=4, ge=1, le=128, description="answers that one request may ask for (n)")
    timeout_s: float = Field(default=300, gt=0, description="longest time for one answer, seconds")
    uploads: UploadsConfig = UploadsConfig()
    tls_certificate: str | None = Field(
        default=None, description="file of the certificate chain (PEM): speak HTTPS"
    )
    tls_key: str | None = Field(default=None, description="file of the certificate's private key (PEM)")
    plain_http: bool = Field(
        default=False,
        description="listen beyond this machine without TLS, where something in front of it brings TLS",
    )
    wire: WireConfig = WireConfig()
    engine: EngineConfig = EngineConfig()
    studies: StudiesConfig = StudiesConfig()
    drafts: DraftsConfig | None = Field(
        default=None, description="section [serve.drafts], may be empty: be Label Studio's ML backend as well"
    )

    @model_validator(mode="after")
    def _a_body_fits(self) -> Self:
        if self.max_body_bytes > self.max_held_bytes:
            raise ValueError(
                f"serve.max_body_bytes is {self.max_body_bytes}, of one request; max_held_bytes of all of "
                f"them is {self.max_held_bytes}; raise it"
            )
        return self

    @model_validator(mode="after")
    def _replicas_are_a_range(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"serve.min_replicas is {self.min_replicas}, serve.max_replicas {self.max_replicas}; raise "
                "max_replicas or lower min_replicas"
            )
        return self

    @property
    def ongoing_per_replica(self) -> int:
        """Requests inside one replica: what fills the engine's batch."""
        return self.max_ongoing or self.engine.max_rows

    @property
    def capacity(self) -> int:
        """Requests that can be answered at the same time."""
        return self.max_replicas * self.ongoing_per_replica

    @property
    def longest_answer_s(self) -> float:
        """The longest time that any answer may take, a question's or a study's, seconds."""
        return max(self.timeout_s, self.studies.timeout_s)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the door."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @model_validator(mode="after")
    def _is_not_overheard(self) -> Self:
        """Keys and pictures leave this machine under TLS only, unless somebody says that it is brought."""
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("expected tls_certificate and tls_key together; one of them is missing")
        if not (self.is_local or self.tls_certificate or self.plain_http):
            raise ValueError(
                f"host {self.host} can be reached from other machines; keys and pictures would travel in the "
                "clear. Set tls_certificate and tls_key, or plain_http = true behind something that brings "
                'TLS, or host = "127.0.0.1"'
            )
        return self


class ServeSettings(BaseModel):
    """What ``sonoloop serve`` reads of the one settings file; sections of the jobs are left to them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    workspace: str = Field(description="s3://bucket/prefix or a folder that holds all state")
    s3: S3Config = S3Config()
    ray: RayConfig = RayConfig()
    log: LogConfig = LogConfig()
    model: ModelConfig = ModelConfig()
    index: IndexConfig = IndexConfig()
    export: ExportConfig = ExportConfig()
    labelstudio: LabelStudioConfig = LabelStudioConfig()
    serve: ServeConfig = ServeConfig()

    @model_validator(mode="after")
    def _replicas_fit(self) -> Self:
        """A Ray of our own never grows: what does not fit would wait for ever."""
        wanted = 2 * self.serve.max_replicas * self.serve.cpus_per_replica
        if not joins_cluster() and wanted > self.ray.num_cpus:
            raise ValueError(
                f"2 x serve.max_replicas x serve.cpus_per_replica is {wanted:g} logical CPUs (twice: two "
                f"versions are loaded while the champion changes), ray.num_cpus is {self.ray.num_cpus}; ask "
                "for fewer replicas or raise ray.num_cpus"
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
