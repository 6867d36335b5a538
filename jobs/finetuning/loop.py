"""One optimizer step on every rank, the same for any number of them.

The loss of a step is the mean over all tokens that it answers, wherever they lie: each micro-batch's loss
counts with its share of them. DeepSpeed divides by ranks and by micro-batches; that is taken back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from sonoloop.jobs.finetuning.config import FinetuneConfig
from sonoloop.jobs.finetuning.curve import StepRecord
from sonoloop.jobs.finetuning.engine import computing, set_rate
from sonoloop.jobs.finetuning.plan import Plan
from sonoloop.jobs.finetuning.task import DivergedError
from sonoloop.model.supervised import IGNORED
from sonoloop.model.training.schedule import learning_rate_factor


@dataclass(frozen=True)
class Batch:
    """A micro-batch as the model takes it, and whether the step counts it."""

    inputs: Mapping[str, Tensor]
    counts: bool

    @property
    def weight(self) -> float:
        """Tokens with a loss, each as its row counts; the first of a row has nobody who foretells it."""
        answered = (self.inputs["labels"][:, 1:] != IGNORED).sum(dim=1)
        return float((answered * self.inputs["weights"]).sum()) if self.counts else 0.0

    @property
    def num_tokens(self) -> int:
        """Tokens that are read."""
        return int(self.inputs["attention_mask"].sum()) if self.counts else 0


class Trainer:
    """Takes the steps of a plan, on one of the ranks.

    Args:
        engine: Of `open_engine`.
        config: The training's.
        plan: All steps.
    """

    def __init__(self, engine: Any, config: FinetuneConfig, plan: Plan) -> None:
        self._engine, self._config, self._plan = engine, config, plan
        self._world = distributed.get_world_size()
        self._ended_at = time.monotonic()

    def step(self, number: int, batches: Sequence[Batch]) -> StepRecord:
        """Take one step with this rank's micro-batches of it.

        Raises:
            DivergedError: the loss is not finite, on every rank alike; no weight was changed.
        """
        engine, plan = self._engine, self._plan
        warmup = max(1, round(plan.num_steps * self._config.warmup_share))
        rate = set_rate(engine, learning_rate_factor(number, plan.num_steps, warmup))
        weight, tokens = self._summed(
            sum(batch.weight for batch in batches), sum(batch.num_tokens for batch in batches)
        )
        parts = torch.zeros(2, dtype=torch.float64, device=engine.device)
        for place, batch in enumerate(batches):
            parts += self._backward(batch, batch.weight / weight)
            if place + 1 < len(batches):
                engine.step()  # counts the micro-batch, and no more than that
        loss, aux_loss = self._summed(*parts)
        if not (math.isfinite(loss) and math.isfinite(aux_loss)):
            raise DivergedError(_diverged(number, plan, loss))
        engine.step()
        began, self._ended_at = self._ended_at, time.monotonic()
        return StepRecord(
            step=number,
            epoch=plan.epoch_of(number),
            loss=loss,
            aux_loss=aux_loss,
            learning_rate=rate,
            gradient_norm=_norm(engine),
            num_tokens=round(tokens),
            seconds=self._ended_at - began,
            workers=self._world,
        )

    def _backward(self, batch: Batch, share: float) -> Tensor:
        """Forward and backward pass; ``(2,)``, this micro-batch's parts of the step's two losses."""
        engine = self._engine
        inputs = {name: value.to(engine.device) for name, value in batch.inputs.items()}
        with computing(self._config, engine.device):
            losses = engine(**inputs)
        engine.backward(losses["total"] * (share * self._world * engine.gradient_accumulation_steps()))
        parts = torch.stack([losses["loss"], losses["aux_loss"]]).double() * share
        return parts if batch.counts else torch.zeros_like(parts)

    def _summed(self, *values: float | Tensor) -> list[float]:
        total = torch.tensor(values, dtype=torch.float64, device=self._engine.device)
        distributed.all_reduce(total)
        return [float(value) for value in total.tolist()]


def _norm(engine: Any) -> float | None:
    norm = engine.get_global_grad_norm()
    return None if norm is None else float(norm)


def _diverged(number: int, plan: Plan, loss: float) -> str:
    return (
        f"the loss is {loss} at step {number + 1} of {plan.num_steps}, in epoch {plan.epoch_of(number) + 1}; "
        "lower finetune.learning_rate or raise finetune.warmup_share, and run the same command again"
    )
