"""Weights laid out once for the CPU's matrix kernels: what a model for inference on CPU runs with.

A plain linear layer lays its matrix out anew on every call; with the 16 rows of a decoding step that costs
more than the product itself. oneDNN's layout made beforehand halves the time of such a call in float32 and
takes a third off in bfloat16; reading prompts gains a fifth (2 cores with AVX-512, torch 2.13; the sides
``ours`` and ``unpacked`` of ``python -m benchmarks generation``). Values differ by rounding only.

Shape letters: N tokens, D width, E experts, K experts per token.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeExperts

_ROWS = 16
"""Rows that the layout is chosen for; it serves any number (measured from 1 to 512 without loss)."""


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this torch has the kernels for a device and dtype, and this CPU the instructions."""
    has_kernels = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    is_known = dtype is torch.float32 or (dtype is torch.bfloat16 and _computes_in_bf16())
    return device.type == "cpu" and has_kernels and is_known


def _computes_in_bf16() -> bool:
    """Whether this CPU can: AVX-512 or AVX-NE-CONVERT."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _packed(weight: Tensor) -> Tensor:
    return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _ROWS))


def _linear(x: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], ""))


class PackedLinear(nn.Module):
    """A linear layer for inference; its matrix is in no ``state_dict``.

    Args:
        linear: Float32 or bfloat16, on CPU.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._weight = _packed(linear.weight)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features)`` -> ``(..., out_features)``."""
        return _linear(x, self._weight, self._bias)


class PackedExperts(nn.Module):
    """The experts of one layer for inference: tokens sorted by expert, one product per expert in use.

    Args:
        experts: Float32 or bfloat16, on CPU.
    """

    def __init__(self, experts: Qwen2MoeExperts) -> None:
        super().__init__()
        self.act_fn = experts.act_fn
        self._gate_up = [_packed(weight) for weight in experts.gate_up_proj]
        self._down = [_packed(weight) for weight in experts.down_proj]

    def forward(self, x_ND: Tensor, index_NK: Tensor, weights_NK: Tensor) -> Tensor:
        """Sum of the chosen experts, weighted, ``(N, D)``."""
        order = index_NK.flatten().argsort(stable=True)
        counts_E = index_NK.flatten().bincount(minlength=len(self._down)).tolist()
        token_of = order // index_NK.shape[1]
        parts = [
            self._expert(expert, part)
            for expert, part in enumerate(torch.split(x_ND[token_of], counts_E))
            if len(part)
        ]
        weighted = torch.cat(parts) * weights_NK.flatten()[order, None]
        return torch.zeros_like(x_ND).index_add_(0, token_of, weighted.to(x_ND.dtype))

    def _expert(self, expert: int, x: Tensor) -> Tensor:
        gate, up = _linear(x, self._gate_up[expert]).chunk(2, dim=-1)
        return _linear(self.act_fn(gate) * up, self._down[expert])


def pack_for_inference(model: nn.Module) -> None:
    """Replace every linear layer and every set of experts, in place; the plain ones are given up one by one.

    The model can neither train nor be saved afterwards. A head that is tied to the embedding gets a copy.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, PackedLinear(child))
            elif isinstance(child, Qwen2MoeExperts):
                setattr(module, name, PackedExperts(child))
