"""Settings of a training: what shapes its result, and where and how it runs."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sonoloop.model.training.recipes import RecipeConfig, recipe

Offload = Literal["none", "optimizer", "parameters"]

PLACEMENT = frozenset(
    {
        "num_workers",
        "min_workers",
        "cpus_per_worker",
        "use_gpu",
        "zero_stage",
        "offload",
        "gradient_checkpointing",
        "checkpoint_every_steps",
        "num_checkpoints",
        "preparers_per_worker",
        "cpus_per_preparer",
        "waiting_mib",
        "storage_patience_s",
        "max_failures",
    }
)
"""Where and how it runs: an interrupted training may be gone on with after a change of these."""


class FinetuneConfig(BaseModel):
    """Training of a challenger from the reviews."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: RecipeConfig = Field(
        default=recipe("corrections"), description="what is trained, and how: a name, or a table with changes"
    )
    epochs: int = Field(default=3, ge=1, description="passes over the training side of the snapshot")
    batch_size: int = Field(
        default=8, ge=1, description="cases of one step, over all workers; the same for any number of them"
    )
    micro_batch_size: int = Field(
        default=4,
        ge=1,
        description="cases that a worker has in memory at once; the rest of its share of a step is "
        "accumulated",
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="tokens of a micro-batch, padding included, at most; a longer case comes alone",
    )
    learning_rate: float = Field(
        default=1e-5,
        gt=0,
        description="peak, AdamW; the recipe's parts may have multiples; a tiny model wants more",
    )
    warmup_share: float = Field(default=0.05, ge=0, lt=1, description="share of steps with rising rate")
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW")
    bf16: bool | None = Field(
        default=None,
        description="compute in bfloat16 beside float32 weights of the optimizer; when absent, where "
        "use_gpu is",
    )
    seed: int = Field(default=0, description="of the order of the examples")
    test_share: float = Field(
        default=0.25, gt=0, lt=1, description="share of patients held out for the gate, for ever"
    )

    num_workers: int = Field(default=2, ge=1, description="Ray Train workers")
    min_workers: int | None = Field(
        default=None,
        ge=1,
        description="go on with so many while the cluster has no room for more, and grow again when it has; "
        "always num_workers when absent",
    )
    cpus_per_worker: float = Field(default=1, gt=0, description="logical CPUs held by a worker")
    use_gpu: bool = Field(default=False, description="one GPU per worker")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=1,
        description="DeepSpeed ZeRO: workers share out the optimizer's state (1), gradients (2), weights (3)",
    )
    offload: Offload = Field(
        default="none",
        description="to the CPU's memory: the optimizer (stages 2 and 3), with parameters also these (3)",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="compute activations again instead of keeping them: less memory, slower"
    )
    checkpoint_every_steps: int | None = Field(
        default=None, ge=1, description="steps between checkpoints, beside the one at each epoch's end"
    )
    num_checkpoints: int = Field(default=2, ge=1, description="checkpoints kept, the newest ones")
    preparers_per_worker: int = Field(
        default=1, ge=1, description="actors that fetch and prepare images for a worker"
    )
    cpus_per_preparer: float = Field(default=0.5, gt=0, description="logical CPUs held by one of them")
    waiting_mib: int = Field(
        default=256, ge=1, description="MiB of prepared images that may wait for one worker"
    )
    storage_patience_s: float = Field(
        default=120, ge=0, description="seconds that S3 may be away or busy before the training stops"
    )
    max_failures: int = Field(
        default=2, ge=0, description="lost workers survived from a checkpoint; then the command ends"
    )

    @field_validator("recipe", mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers ({self.min_workers}) must not be above num_workers")
        if self.offload == "optimizer" and self.zero_stage not in (2, 3):
            raise ValueError('offload = "optimizer" needs zero_stage 2 or 3')
        if self.offload == "parameters" and self.zero_stage != 3:
            raise ValueError('offload = "parameters" needs zero_stage 3')
        return self

    @property
    def computes_in_bf16(self) -> bool:
        """What ``bf16`` means here."""
        return self.use_gpu if self.bf16 is None else self.bf16

    @property
    def shape(self) -> str:
        """What shapes the result, as JSON: trainings of the same shape go on with each other's checkpoints.

        ``use_gpu`` counts only through the precision that it implies.
        """
        chosen = self.model_copy(update={"bf16": self.computes_in_bf16})
        return chosen.model_dump_json(exclude=set(PLACEMENT))
