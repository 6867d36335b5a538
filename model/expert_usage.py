"""How the router spreads real tokens over the experts of each layer, read while a model runs.

``with expert_usage(model) as usage:`` listens during training and inference alike; ``usage`` then answers.
Counting is one addition per layer on the model's device; nothing is copied or waited for until it is asked
for, and outputs are untouched. It does not see a forward pass that bypasses the modules, such as the replay
of a CUDA graph.

Shape letters: L layers, E experts, K experts per token, B batch, T new tokens per row, N = B * T, S tokens
with those in the cache.

| figure | shape | meaning |
|---|---|---|
| counts | (L, E) | (token, choice) pairs that fell to an expert, padding left out |
| shares | (L, E) | the same as shares of the layer, summing to 1 |
| balance | (L,) | entropy of the shares over log(E): 1 even, 0 all on one expert |
| least_used | (L,) | smallest share times E: 1 even, 0 an expert that nothing reaches |
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from sonoloop.model.modeling import EchoVLMSparseMoe, EchoVLMTextModel

COLLAPSED_BELOW = 0.01
"""Share of an even share under which an expert counts as collapsed: a hundredth of what it should get."""


@dataclass(frozen=True, slots=True)
class CollapsedExpert:
    """An expert that almost nothing reaches; ``share`` is of an even share, 1 is even."""

    layer: int
    expert: int
    share: float


def real_tokens(attention_mask: Any, num_tokens: int) -> Tensor | None:
    """Which of the tokens that now enter are not padding.

    Args:
        attention_mask: What the decoder was given: None; ``(B, S)``, 1 for real tokens; a finished mask
            ``(B, 1, T, S)``, boolean or added to the scores; or a dictionary of finished masks.
        num_tokens: T; a mask over a cache as well is longer, its last T columns are the new tokens'.

    Returns:
        ``(B, T)`` bool, or None if all are real.
    """
    if isinstance(attention_mask, dict):
        attention_mask = next(iter(attention_mask.values()), None)
    if not isinstance(attention_mask, Tensor):
        return None
    if attention_mask.ndim == 2:
        return attention_mask[:, -num_tokens:].bool()
    # a padded query may see nothing; what an additive mask hides is near its dtype's minimum
    if attention_mask.dtype != torch.bool:
        attention_mask = attention_mask > torch.finfo(attention_mask.dtype).min / 2
    real_B1T: Tensor = attention_mask.any(dim=-1)
    return real_B1T[:, 0]


class ExpertUsage:
    """Counts of (token, choice) pairs per layer and expert.

    Args:
        num_layers: L.
        num_experts: E.
        device: Where to count, the model's own.
    """

    def __init__(self, num_layers: int, num_experts: int, device: torch.device | str = "cpu") -> None:
        self._counts_LE = torch.zeros((num_layers, num_experts), dtype=torch.int64, device=device)
        self._real_BT: Tensor | None = None

    def expect(self, real_BT: Tensor | None) -> None:
        """Say which tokens of the next forward pass are real; None means all."""
        self._real_BT = real_BT

    def add(self, layer: int, index_NK: Tensor) -> None:
        """Count one layer's choices, expert indices ``(N, K)``, for the tokens that are expected."""
        real_BT = self._real_BT
        if real_BT is None or real_BT.numel() != len(index_NK):  # no padding, or rows laid out another way
            pairs = torch.ones_like(index_NK)
        else:
            pairs = real_BT.reshape(-1, 1).to(index_NK).expand_as(index_NK)
        device = self._counts_LE.device
        self._counts_LE[layer].scatter_add_(0, index_NK.flatten().to(device), pairs.flatten().to(device))

    def add_layers(self, logits_LNE: Tensor, num_active: int) -> None:
        """Count all layers' choices, from the router logits ``(L, N, E)`` of real tokens, K of E each."""
        chosen_LNK = logits_LNE.softmax(dim=-1).topk(num_active).indices  # as the router itself does
        index_LC = chosen_LNK.flatten(start_dim=1)
        self._counts_LE.scatter_add_(1, index_LC, torch.ones_like(index_LC))

    def reset(self) -> None:
        """Forget what was counted."""
        self._counts_LE.zero_()

    def reduce(self) -> None:
        """Sum over all ranks of ``torch.distributed``, where it is in use; every rank must call it."""
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(self._counts_LE)

    def counts(self) -> Tensor:
        """``(L, E)`` int64, on the CPU."""
        return self._counts_LE.cpu()

    def shares(self) -> Tensor:
        """``(L, E)`` float64 on the CPU, each layer summing to 1; a layer that saw nothing is NaN."""
        counts_LE = self.counts().double()
        return counts_LE / counts_LE.sum(dim=1, keepdim=True)

    def balance(self) -> Tensor:
        """``(L,)`` float64: entropy of the shares over log(E): 1 even, or a lone expert; 0 all on one."""
        shares_LE = self.shares()
        num_experts = shares_LE.shape[1]
        if num_experts == 1:
            return torch.ones_like(shares_LE[:, 0])
        return -torch.xlogy(shares_LE, shares_LE).sum(dim=1) / math.log(num_experts)

    def least_used(self) -> Tensor:
        """``(L,)`` float64: the smallest share times E, 1 even, 0 where an expert gets nothing."""
        shares_LE = self.shares()
        return shares_LE.amin(dim=1) * shares_LE.shape[1]

    def collapsed(self, below: float = COLLAPSED_BELOW) -> list[CollapsedExpert]:
        """Experts with less than ``below`` of an even share, in order; layers that saw nothing have none."""
        shares_LE = self.shares() * self._counts_LE.shape[1]
        found = (shares_LE < below).nonzero().tolist()
        return [CollapsedExpert(layer, expert, shares_LE[layer, expert].item()) for layer, expert in found]

    def table(self) -> str:
        """One line per layer: shares in per cent, then the balance."""
        lines = []
        for layer, (shares_E, balance) in enumerate(zip(self.shares(), self.balance(), strict=True)):
            percents = " ".join(f"{100 * share:5.1f}" for share in shares_E.tolist())
            lines.append(f"layer {layer:2d}: {percents}  balance {balance.item():.3f}")
        return "\n".join(lines)


def _decoders(model: nn.Module) -> list[EchoVLMTextModel]:
    return [module for module in model.modules() if isinstance(module, EchoVLMTextModel)]


@contextmanager
def expert_usage(model: nn.Module) -> Iterator[ExpertUsage]:
    """Count the experts' use in every forward pass inside the block; the count stays readable after it.

    Args:
        model: Any module with one EchoVLM in it: the model, an engine's, a DeepSpeed engine.

    Raises:
        ValueError: There is no EchoVLM in it, or more than one.
    """
    decoders = _decoders(model)
    if len(decoders) != 1:
        raise ValueError(f"expected a module with one EchoVLM decoder, found {len(decoders)}")
    routers = [module.gate for module in decoders[0].modules() if isinstance(module, EchoVLMSparseMoe)]
    usage = ExpertUsage(len(routers), decoders[0].config.num_experts, routers[0].weight.device)

    def note_padding(_: nn.Module, __: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        tokens = inputs.get("inputs_embeds")
        tokens = inputs.get("input_ids") if tokens is None else tokens
        usage.expect(None if tokens is None else real_tokens(inputs.get("attention_mask"), tokens.shape[1]))

    def count(layer: int, routed: tuple[Tensor, Tensor, Tensor]) -> None:
        usage.add(layer, routed[2].detach())

    with ExitStack() as hooks:
        hook = decoders[0].register_forward_pre_hook(note_padding, with_kwargs=True)
        hooks.callback(hook.remove)
        for layer, router in enumerate(routers):
            hook = router.register_forward_hook(lambda _m, _i, routed, layer=layer: count(layer, routed))
            hooks.callback(hook.remove)
        yield usage
