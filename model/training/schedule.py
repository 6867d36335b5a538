"""How the learning rate moves over a run, and gradient checkpointing that keeps the auxiliary loss."""

from __future__ import annotations

import math

from sonoloop.model.modeling import EchoVLMForConditionalGeneration


def learning_rate_factor(step: int, total: int, warmup: int) -> float:
    """What the peak rate is multiplied by: a linear rise, then half a cosine down to 0 at ``total``.

    Args:
        step: Optimizer steps done, from 0; past ``total`` the factor stays 0.
        total: Optimizer steps of the run.
        warmup: Steps of the rise; 0 begins at the peak.

    Source: arXiv:1608.03983, eq. 5, without restarts.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(total - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def checkpoint_activations(model: EchoVLMForConditionalGeneration) -> None:
    """Keep each layer's input alone and compute the rest again in the backward pass: a third more time.

    Reentrant checkpointing would run layers without gradients first, which takes the router's logits, and
    with them the auxiliary loss, out of the graph; this is the other kind.
    """
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
