"""Cross-entropy behind the language head, in parts: the logits of all positions never stand side by side.

With 152,000 words the logits of a batch are by far its largest tensor, and passes over them, each into fresh
memory, cost more than the head's matrix products. Here one part of the positions after another goes through
the head, and the gradient of their states is found at once, in the same memory. torch's own
`linear_cross_entropy` does so for a sum, not where each position has a weight of its own (2.13).

Shape letters: S positions, D model width, V vocabulary, C positions of a part.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PART = 128
"""Positions of a part: fewer make the matrix products slower, more make the passes between them so."""


class HeadLoss(nn.Module):
    """Sum of the weighted cross-entropies of positions, behind a head without bias.

    It holds the head's own parameter, so that whoever gathers parameters for modules does so for this one.

    Args:
        head: The language head.
    """

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.weight = head.weight

    def forward(self, hidden_SD: Tensor, labels_S: Tensor, weights_S: Tensor) -> Tensor:
        """Scalar float32.

        Args:
            hidden_SD: States of the positions.
            labels_S: int64, the word that follows each.
            weights_S: float32, what each counts.
        """
        device = hidden_SD.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_SD.dtype
        with torch.autocast(device, enabled=False):
            loss: Tensor = _HeadLoss.apply(  # type: ignore[no-untyped-call]
                hidden_SD.to(dtype), self.weight.to(dtype), labels_S, weights_S
            )
        return loss


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_SD: Tensor, weight_VD: Tensor, labels_S: Tensor, weights_S: Tensor
    ) -> Tensor:
        loss = weights_S.new_zeros(())
        needs_hidden, needs_weight, *_ = ctx.needs_input_grad
        d_hidden_SD = torch.empty_like(hidden_SD) if needs_hidden else None
        d_weight_VD = weight_VD.new_zeros(weight_VD.shape, dtype=torch.float32) if needs_weight else None
        room = min(PART, len(hidden_SD)), len(weight_VD)
        logits_CV, scores_CV = hidden_SD.new_empty(room), hidden_SD.new_empty(room, dtype=torch.float32)
        for begin in range(0, len(hidden_SD), PART):
            here = slice(begin, begin + PART)
            x_CD, scale_C1 = hidden_SD[here], weights_S[here, None]
            logits, scores = logits_CV[: len(x_CD)], scores_CV[: len(x_CD)]
            torch.mm(x_CD, weight_VD.t(), out=logits)
            loss += _losses(logits, scores, labels_S[here, None], scale_C1)
            logits.copy_(scores)
            if d_hidden_SD is not None:
                torch.mm(logits, weight_VD, out=d_hidden_SD[here])
            if d_weight_VD is not None:
                d_weight_VD += logits.t() @ x_CD
        ctx.save_for_backward(d_hidden_SD, None if d_weight_VD is None else d_weight_VD.to(weight_VD.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden_SD, d_weight_VD = (
            None if gradient is None else gradient * d_loss.to(gradient.dtype)
            for gradient in ctx.saved_tensors
        )
        return d_hidden_SD, d_weight_VD, None, None


def _losses(logits_CV: Tensor, scores_CV: Tensor, labels_C1: Tensor, scale_C1: Tensor) -> Tensor:
    """The part's loss; ``scores_CV`` then holds its gradient by the logits."""
    scores_CV.copy_(logits_CV)
    top_C1 = scores_CV.amax(dim=1, keepdim=True)
    total_C1 = scores_CV.sub_(top_C1).exp_().sum(dim=1, keepdim=True)
    loss = ((total_C1.log() + top_C1 - logits_CV.gather(1, labels_C1)) * scale_C1).sum()
    scores_CV.mul_(scale_C1 / total_C1).scatter_add_(1, labels_C1, -scale_C1)
    return loss
