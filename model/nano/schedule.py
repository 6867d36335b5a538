"""What both training stages share: order of cases, optimiser, learning rate, one step.

Training may run as several processes of one thread each: on a busy machine that was four times as fast as
several threads, which wait for each other at every operation instead of once per step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn


def endless_batches(num_items: int, batch: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Indices in a seeded order for ever; each epoch visits every item once."""
    waiting: list[int] = []
    while True:
        while len(waiting) < batch:
            waiting += rng.permutation(num_items).tolist()
        yield waiting[:batch]
        waiting = waiting[batch:]


def adamw(modules: list[tuple[nn.Module, float]], weight_decay: float) -> torch.optim.AdamW:
    """AdamW over modules with their peak learning rates; vectors and embeddings do not decay."""
    groups = []
    for module, peak in modules:
        named = list(module.named_parameters())
        matrices = [p for name, p in named if p.ndim > 1 and "embed_tokens" not in name]
        others = [p for name, p in named if p.ndim <= 1 or "embed_tokens" in name]
        groups += [
            {"params": matrices, "lr": peak, "peak": peak, "weight_decay": weight_decay},
            {"params": others, "lr": peak, "peak": peak, "weight_decay": 0.0},
        ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def set_lr(optimizer: torch.optim.Optimizer, step: int, num_steps: int) -> None:
    """Linear rise over the first twentieth, then half a cosine down to a fiftieth of the peak."""
    rise = max(num_steps // 20, 1)
    done = (step - rise) / max(num_steps - rise, 1)
    scale = (step + 1) / rise if step < rise else 0.02 + 0.49 * (1 + math.cos(math.pi * done))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * scale


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step with gradients averaged over the processes and clipped to norm 1."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if dist.is_initialized():
        _average_gradients(parameters)
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    pieces = torch.split(flat, [p.numel() for p in parameters])
    for parameter, gradient in zip(parameters, pieces, strict=True):
        parameter.grad = gradient.view_as(parameter)
