"""Taking one token from a distribution. Shape letters: A tokens that may be taken."""

from __future__ import annotations

import torch
from torch import Tensor

from sonoloop.model.generation import Sampling


def choose(log_probs_A: Tensor, sampling: Sampling, generator: torch.Generator | None) -> int:
    """The index of the token taken: the most likely one, or a draw where there is a generator.

    Args:
        log_probs_A: Natural logarithms, float32.
        sampling: Temperature and nucleus of a draw.
        generator: On CPU, so that draws do not depend on the device.
    """
    if generator is None:
        return int(log_probs_A.argmax())
    # the best one at 0, and in float64, where no temperature is 0: one candidate always stays finite
    scaled_A = ((log_probs_A - log_probs_A.max()).double() / sampling.temperature).softmax(dim=-1).cpu()
    if sampling.top_p < 1:
        sorted_A, order_A = scaled_A.sort(descending=True, stable=True)
        before_A = sorted_A.cumsum(dim=-1) - sorted_A
        scaled_A[order_A[before_A >= sampling.top_p]] = 0  # the first is always kept
    return int(torch.multinomial(scaled_A, 1, generator=generator))


def most_likely(log_probs_A: Tensor, num: int) -> tuple[tuple[int, float], ...]:
    """Indices and log-probabilities of the ``num`` most likely tokens (or all), most likely first."""
    if not num:
        return ()
    values, indices = log_probs_A.topk(min(num, len(log_probs_A)))
    return tuple(zip(indices.tolist(), values.tolist(), strict=True))
