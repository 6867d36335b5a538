"""What training minimises: cross-entropy of the supervised tokens plus the auxiliary loss of the routers.

Only real tokens go through the model (`rows`), and only supervised positions through the head (`head`): with
152,000 words the logits of a whole batch are by far its largest tensor, and most of a case's tokens, image
and prompt, have no loss.

Both terms are of all ranks together. However the rows of a step are spread, the mean of the ranks' gradients
is the same; and experts need not be used evenly within the few cases of one rank, which may all be of one
organ.

Shape letters: B rows, T tokens of the longest, N real tokens of all, S supervised positions of the batch, D
model width, E experts, K experts per token.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from sonoloop.model.modeling import EchoVLMForConditionalGeneration, RouterSink
from sonoloop.model.supervised import IGNORED
from sonoloop.model.training.head import HeadLoss
from sonoloop.model.training.rows import flattened, use_row_attention


class Objective(nn.Module):
    """The model with its loss as one module, so that DeepSpeed's hooks see everything that runs.

    Args:
        model: Any EchoVLM, with adapters or without.
        over_ranks: Whether both terms are of the batches of all ranks together; otherwise of this batch
            alone, for callers that weigh batches themselves.
    """

    def __init__(self, model: EchoVLMForConditionalGeneration, *, over_ranks: bool = True) -> None:
        super().__init__()
        use_row_attention(model)
        self.model = model
        self.head_loss = HeadLoss(model.lm_head)
        self._over_ranks = over_ranks

    def forward(
        self, labels: Tensor, weights: Tensor, attention_mask: Tensor, **batch: Tensor
    ) -> dict[str, Tensor]:
        """Loss of a batch that `collate` made.

        Cross-entropy is averaged over the supervised tokens of all ranks, each token weighted as its row:
        however the same rows are spread over ranks, the mean of the ranks' gradients is the same.

        Args:
            labels: ``(B, T)`` int64, -100 where there is no loss; shifted inside.
            weights: ``(B,)`` float32, what a row's tokens count.
            attention_mask: ``(B, T)`` int64, 1 for real tokens.
            batch: The model's other inputs.

        Returns:
            Scalars, float32: ``total``, to be minimised; ``loss``, the cross-entropy; ``aux_loss``, K where
            experts are used evenly. Their mean over ranks is that of all rows; one rank's own says little.

        Raises:
            RuntimeError: The auxiliary loss has no gradient: checkpointing is reentrant.
        """
        sink: RouterSink = {}
        hidden_1ND = self.model.model(
            **flattened(self.model, attention_mask, **batch), router_sink=sink, use_cache=False
        ).last_hidden_state
        loss = self._cross_entropy(hidden_1ND[0], labels, weights, attention_mask.bool())
        text = self.model.config.text_config
        aux_loss = balance_loss(tuple(sink.values()), text.num_experts_per_tok, over_ranks=self._over_ranks)
        if torch.is_grad_enabled() and not aux_loss.requires_grad and _learns_routing(self.model):
            raise RuntimeError("the auxiliary loss has no gradient: checkpoint with use_reentrant=False")
        total = loss + text.router_aux_loss_coef * aux_loss
        return {"total": total, "loss": loss.detach(), "aux_loss": aux_loss.detach()}

    def _cross_entropy(
        self, hidden_ND: Tensor, labels_BT: Tensor, weights_B: Tensor, is_real_BT: Tensor
    ) -> Tensor:
        following_BT = functional.pad(labels_BT[:, 1:], (0, 1), value=IGNORED)
        following_N = following_BT[is_real_BT]
        is_learnt_N = following_N != IGNORED
        weights_S = weights_B[:, None].expand_as(is_real_BT)[is_real_BT][is_learnt_N]
        whole = _mean_over_ranks(weights_S.sum()) if self._over_ranks else weights_S.sum()
        loss: Tensor = self.head_loss(hidden_ND[is_learnt_N], following_N[is_learnt_N], weights_S / whole)
        return loss


def balance_loss(router_logits: tuple[Tensor, ...], num_active: int, *, over_ranks: bool = True) -> Tensor:
    """`modeling.load_balancing_loss`, with the load counted over all ranks.

    The mean over ranks is the loss of all rows as one batch, and so is the mean of its gradients.

    Args:
        router_logits: One ``(N, E)`` per layer.
        num_active: K.
        over_ranks: Whether ranks are counted together.

    Source: arXiv:2501.11873, section 3, the load over the global batch.
    """
    probabilities_NE = torch.cat(router_logits).float().softmax(dim=-1)
    num_tokens, num_experts = probabilities_NE.shape
    chosen_NK = probabilities_NE.topk(num_active, dim=-1).indices
    load_E = torch.bincount(chosen_NK.flatten(), minlength=num_experts).float()
    sums = torch.cat([load_E, load_E.new_tensor([num_tokens])])
    sums = _mean_over_ranks(sums) if over_ranks else sums
    load_E, mean_tokens = sums[:-1] / sums[-1], sums[-1]
    loss: Tensor = num_experts * (load_E * probabilities_NE.sum(dim=0) / mean_tokens).sum()
    return loss


def _learns_routing(model: EchoVLMForConditionalGeneration) -> bool:
    router: nn.Parameter = model.model.language_model.layers[0].moe.gate.weight
    return router.requires_grad


def _mean_over_ranks(value: Tensor) -> Tensor:
    """The mean over all ranks of ``torch.distributed``, the value itself where it is not in use."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    total = value.detach().clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()
