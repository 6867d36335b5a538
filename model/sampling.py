"""Taking tokens from distributions. Shape letters: R rows, A tokens that may be taken."""

from __future__ import annotations

from collections.abc import Sequence

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
    return (
        int(log_probs_A.argmax())
        if generator is None
        else draw(log_probs_A[None], [(sampling, generator)])[0]
    )


def draw(log_probs_RA: Tensor, ways: Sequence[tuple[Sampling, torch.Generator]]) -> list[int]:
    """The index of each row's token; what a row draws does not depend on the others.

    Args:
        log_probs_RA: Natural logarithms, float32, finite.
        ways: Of each row; generators as in `choose`.
    """
    temperatures = [sampling.temperature for sampling, _ in ways]
    temperatures_R1 = torch.tensor(temperatures, dtype=torch.float64, device=log_probs_RA.device)[:, None]
    # the best one at 0, and in float64, where no temperature is 0: one candidate always stays finite
    below_best_RA = (log_probs_RA - log_probs_RA.amax(dim=-1, keepdim=True)).double()
    shares_RA = (below_best_RA / temperatures_R1).softmax(dim=-1).cpu()
    return [
        int(torch.multinomial(_nucleus(shares_A, sampling.top_p), 1, generator=generator))
        for shares_A, (sampling, generator) in zip(shares_RA, ways, strict=True)
    ]


def _nucleus(shares_A: Tensor, top_p: float) -> Tensor:
    """The fewest tokens that make up ``top_p``; all others at 0."""
    if top_p == 1:
        return shares_A
    sorted_A, order_A = shares_A.sort(descending=True, stable=True)
    before_A = sorted_A.cumsum(dim=-1) - sorted_A
    return shares_A.index_fill(0, order_A[before_A >= top_p], 0)  # the first is always kept


def most_likely(log_probs_A: Tensor, num: int) -> tuple[tuple[int, float], ...]:
    """Indices and log-probabilities of the ``num`` most likely tokens (or all), most likely first."""
    if not num:
        return ()
    values, indices = log_probs_A.topk(min(num, len(log_probs_A)))
    return tuple(zip(indices.tolist(), values.tolist(), strict=True))
