"""What a training changes and what it leaves alone, as small configurations with names.

| recipe | trained fully | LoRA on | for |
|---|---|---|---|
| corrections | MoE | attention | a round of reviews; older ones are replayed against forgetting |
| stage1 | MoE | | new experts beside a dense model that stays as it is |
| stage2 | MoE | attention, vision tower, merger | everything adapts, the dense weights at low rank |
| full | everything | | much data, much memory |
| upcycle | MoE | | a dense Qwen2-VL, given experts first (`sonoloop.model.upcycle`) |

MoE stands for a layer's router, experts, shared expert and the mix of its two branches. Rank 16 and alpha 32
are those of a script in EchoVLM's repository that trains a model compared with it; the paper
(arXiv:2509.14977) does not tell its own.

No torch here: `jobs` reads its settings without it. What a recipe does to a model is in `trainable`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sonoloop.model.prompts import Task

RecipeName: TypeAlias = Literal["corrections", "stage1", "stage2", "full", "upcycle"]
Part: TypeAlias = Literal[
    "router",
    "experts",
    "shared_expert",
    "mix",
    "attention",
    "mlp",
    "norms",
    "embedding",
    "merger",
    "vision",
]
"""Every parameter belongs to one part (`trainable.part_of`); ``embedding`` includes the head."""
Scale = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0)]

MOE: tuple[Part, ...] = ("router", "experts", "shared_expert", "mix")
ALL: tuple[Part, ...] = (*MOE, "attention", "mlp", "norms", "embedding", "merger", "vision")
LEARNT_TASKS: tuple[Task, ...] = ("report", "findings", "impression", "entities", "vqa")
"""The tasks that a reviewed case has answers to."""


class AdapterConfig(BaseModel):
    """LoRA on the linear layers of some parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parts: tuple[Part, ...] = Field(("attention",), description="parts whose linear layers are adapted")
    rank: int = Field(16, ge=1, description="rank of the update of a matrix")
    alpha: float = Field(32, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="of the adapter's input; above 0 a resumed run draws other numbers"
    )
    rate_scale: Scale = Field(10, description="learning rate of the adapters as a multiple of the run's")


class RecipeConfig(BaseModel):
    """One recipe; what is not given follows its name.

    ``RecipeConfig(name="stage2", adapter={"rank": 8})`` is stage2 with another rank and nothing else changed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: RecipeName = Field(description="the defaults of everything else")
    train: tuple[Part, ...] = Field(description="parts trained fully; all others are frozen")
    adapter: AdapterConfig | None = Field(description="LoRA on frozen parts, merged after training")
    rate_scales: dict[Part, Scale] = Field(
        {}, description="learning rate of a part as a multiple of the run's, 1 where not named"
    )
    replay: Share | None = Field(
        None, description="older reviews per new one in an epoch, drawn anew each time; null takes all"
    )
    base_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the base in the published weights (WiSE-FT, arXiv:2109.01903): less is "
        "forgotten, less is learnt",
    )
    tasks: dict[Task, Share] = Field(
        {"report": 0.7, "vqa": 0.15, "findings": 0.05, "impression": 0.05, "entities": 0.05},
        description="share of a task among the examples; report is the whole conversation of a draft",
    )
    upcycles: bool = Field(False, description="the base is a dense Qwen2-VL that gets its experts first")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_name(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("name") not in _DEFAULTS:
            return given  # the fields' own checks tell what is wrong
        filled = {**_DEFAULTS[given["name"]], **given}
        adapter, default = given.get("adapter"), _DEFAULTS[given["name"]]["adapter"]
        if isinstance(adapter, Mapping) and default is not None:
            filled["adapter"] = {**default, **adapter}
        return filled

    @model_validator(mode="after")
    def _check(self) -> RecipeConfig:
        if not self.train and self.adapter is None:
            raise ValueError("a recipe that trains no part needs an adapter")
        if self.adapter is not None and "embedding" in self.adapter.parts:
            raise ValueError(
                "the embedding cannot be adapted: it may be the head's matrix too; train it fully"
            )
        if twice := set(self.train) & set(self.adapter.parts if self.adapter else ()):
            raise ValueError(f"parts are trained fully or adapted, not both: {', '.join(sorted(twice))}")
        if unknown := set(self.tasks) - set(LEARNT_TASKS):
            raise ValueError(
                f"expected tasks among {', '.join(LEARNT_TASKS)}, found {', '.join(sorted(unknown))}"
            )
        if not sum(self.tasks.values()) > 0:
            raise ValueError("expected a task with a share above 0")
        return self


_DEFAULTS: dict[RecipeName, dict[str, Any]] = {
    "corrections": {"train": MOE, "adapter": {"parts": ("attention",)}, "replay": 1.0},
    "stage1": {"train": MOE, "adapter": None},
    "stage2": {"train": MOE, "adapter": {"parts": ("attention", "vision", "merger")}},
    "full": {"train": ALL, "adapter": None},
    "upcycle": {"train": MOE, "adapter": None, "upcycles": True},
}


def recipe(name: RecipeName) -> RecipeConfig:
    """The recipe of this name, all at its defaults."""
    return RecipeConfig.model_validate({"name": name})
