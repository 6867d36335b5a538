"""The one configuration file: a tree of the rooms' own settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sonoloop.jobs.drifting.config import DriftConfig
from sonoloop.jobs.finetuning.config import FinetuneConfig
from sonoloop.jobs.freezing.config import SnapshotConfig
from sonoloop.jobs.gating.config import GateConfig
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.prompts import draft_recipe
from sonoloop.platform import logs
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.cluster import RayConfig
from sonoloop.platform.export.config import ExportConfig
from sonoloop.platform.labelstudio.config import LabelStudioConfig
from sonoloop.platform.registry import ModelConfig
from sonoloop.platform.settings import read_settings
from sonoloop.platform.workspace import S3Config, Store, store_of

Strategy = Literal["uncertain", "certain", "diverse", "balanced", "random"]
"""What chooses a case for people, see `sonoloop.jobs.pushing.choosing`."""


class Section(BaseModel):
    """A frozen section; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AnnotateConfig(Section):
    """The drafting pipeline."""

    cases_per_unit: int = Field(
        default=32,
        ge=1,
        description="cases that an engine takes at once and that become durable at once: what a killed actor "
        "loses; several times engine.max_rows keep its rows filled",
    )
    num_actors: int = Field(default=1, ge=1, description="model actors")
    max_actors: int | None = Field(
        default=None, ge=1, description="model actors while there is work for more; num_actors when absent"
    )
    cpus_per_actor: float = Field(default=1, gt=0, description="logical CPUs held by a model actor")
    gpus_per_actor: float = Field(default=0, ge=0, description="GPUs held by a model actor")
    actor_resources: dict[str, float] = Field(
        default={}, description="custom Ray resources held by a model actor: which nodes take it"
    )
    max_preparers: int = Field(default=1, ge=1, description="actors that fetch and prepare images, at most")
    cpus_per_preparer: float = Field(default=0.5, gt=0, description="logical CPUs held by one of them")
    preparer_resources: dict[str, float] = Field(
        default={}, description="custom Ray resources held by one of them"
    )
    nodes_to_come: tuple[dict[str, float], ...] = Field(
        default=(),
        description="Ray resources of each kind of node that the cluster adds when wanted, for training "
        "too; without them a run must fit the nodes that are there",
    )
    waiting_mib: int | None = Field(
        default=None,
        ge=1,
        description="MiB of prepared images that may wait in memory between the stages, over all nodes; half "
        "of Ray's object stores when absent",
    )
    storage_patience_s: float = Field(
        default=120,
        ge=0,
        description="seconds that S3 may be away or busy before a case is rejected for it, or the run stops",
    )
    max_attempts: int = Field(
        default=2, ge=1, description="processes that a case may take down, alone, before it is rejected"
    )
    case_timeout_s: float = Field(
        default=300,
        gt=0,
        description="seconds that a case may take in one stage, and a unit for each of its cases; then its "
        "process is ended",
    )
    max_rejected_share: float = Field(
        default=0.5, ge=0, le=1, description="share of rejected cases that fails the run"
    )
    min_cases_before_stop: int = Field(
        default=100, ge=1, description="cases that are done before a run may stop early for that share"
    )
    engine: EngineConfig = EngineConfig()

    @model_validator(mode="after")
    def _waiting_is_not_hanging(self) -> Self:
        if self.case_timeout_s <= self.storage_patience_s:
            raise ValueError(
                f"case_timeout_s ({self.case_timeout_s:g}) must be above storage_patience_s "
                f"({self.storage_patience_s:g}): a case that waits for the store would count as hanging"
            )
        return self

    @property
    def most_actors(self) -> int:
        """Model actors at most."""
        return max(self.num_actors, self.max_actors or 0)

    @property
    def prompt_version(self) -> str:
        """What drafts made with this configuration are keyed by, beside the model version."""
        return draft_recipe(self.engine.language).id


class CostConfig(Section):
    """What the cluster costs while a run is under way."""

    currency: str = Field(default="USD", description="of the prices, as it is shown")
    node_hour: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default={},
        description="price per hour of a whole node that has this resource (GPU, CPU) or label "
        "(ray.io/market-type=spot); of several, the first one written counts",
    )


class PushConfig(Section):
    """Which cases people see, and how."""

    shares: dict[Strategy, Annotated[float, Field(ge=0)]] = Field(
        default={"uncertain": 0.5, "diverse": 0.2, "balanced": 0.2, "random": 0.1},
        description="what chooses a budget's cases, each with its part of the sum; those not named get none",
    )
    control_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share of the chosen cases that is shown without a draft, by lot: what drafts do is "
        "measured against them",
    )
    agreement_share: float = Field(
        default=0.05, ge=0, le=1, description="share of the cases that two people read, by lot"
    )
    mark_below: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="a drafted value is marked on the page where its probability, calibrated where possible, "
        "is below this",
    )
    seed: int = Field(default=0, description="of the lots")

    @model_validator(mode="after")
    def _something_chooses(self) -> Self:
        if not sum(self.shares.values()):
            raise ValueError("shares must name a strategy with a share above 0")
        return self

    @property
    def least_sure_first(self) -> bool:
        """Whether Label Studio's own order, by the newest score, may stand for ours.

        It shows cases without a prediction last, so controls would all come at the end.
        """
        chosen_by = {name for name, share in self.shares.items() if share}
        return chosen_by == {"uncertain"} and not self.control_share


class EvaluateConfig(Section):
    """Benchmarks."""

    bertscore_model: str | None = Field(
        default=None, description="folder of an encoder for BERTScore; without it that figure is left out"
    )


class WatchConfig(Section):
    """When the watcher looks, and when it trains."""

    every_s: float = Field(default=300, ge=1, description="pause between two looks at Label Studio, seconds")
    min_reviews: int = Field(
        default=50, ge=1, description="reviews that no training has seen, below which none is started"
    )
    min_organs: int = Field(default=1, ge=1, description="different organs that these reviews must be about")
    max_attempts: int = Field(
        default=3, ge=1, description="failed trainings on the same reviews; then further ones are waited for"
    )


class Config(Section):
    """Everything a job needs to know, secrets excepted."""

    workspace: str = Field(description="s3://bucket/prefix or a folder that holds all state")
    archive: str = Field(description="s3://bucket/prefix or a folder with the studies")
    s3: S3Config = S3Config()
    ray: RayConfig = RayConfig()
    log: logs.LogConfig = logs.LogConfig()
    model: ModelConfig = ModelConfig()
    index: IndexConfig = IndexConfig()
    annotate: AnnotateConfig = AnnotateConfig()
    cost: CostConfig = CostConfig()
    labelstudio: LabelStudioConfig = LabelStudioConfig()
    push: PushConfig = PushConfig()
    snapshot: SnapshotConfig = SnapshotConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    gate: GateConfig = GateConfig()
    watch: WatchConfig = WatchConfig()
    drift: DriftConfig = DriftConfig()
    export: ExportConfig = ExportConfig()
    serve: dict[str, Any] = Field(default={}, description="the serving room's own settings, checked there")

    @model_validator(mode="after")
    def _archive_holds_no_workspace(self) -> Self:
        if f"{self.workspace.rstrip('/')}/".startswith(f"{self.archive.rstrip('/')}/"):
            raise ValueError(
                "the workspace lies in the archive, its own images would be indexed; move it out"
            )
        return self

    def open_workspace(self) -> Store:
        """The workspace, proven to be reachable.

        Raises:
            StorageError: missing, refused or silent.
        """
        return _opened(self.workspace, self.s3)

    def open_archive(self) -> Store:
        """The archive, proven to be reachable.

        Raises:
            StorageError: missing, refused or silent.
        """
        return _opened(self.archive, self.s3)


def load_config(source: str) -> Config:
    """Read the configuration from a path or an ``s3://`` URI; the environment overrides.

    Raises:
        ConfigError: no such file, or its content cannot be used.
    """
    config = read_settings(Config, source)
    logs.follow(config.log)
    return config


def _opened(uri: str, s3: S3Config) -> Store:
    store = store_of(uri, s3)
    store.check()
    return store
