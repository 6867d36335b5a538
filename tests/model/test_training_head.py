"""The loss behind the head, in parts, is that of all logits at once, and so are its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sonoloop.model.training.head import PART, HeadLoss

S, D, V = 2 * PART + 5, 16, 300


def drawn(num: int = S) -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    head = nn.Linear(D, V, bias=False)
    weights = torch.rand(num) + 0.1
    return head, torch.randn(num, D, requires_grad=True), torch.randint(V, (num,)), weights / weights.sum()


def plain(head: nn.Linear, hidden: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    losses = functional.cross_entropy(head(hidden).float(), labels, reduction="none")
    return (losses * weights).sum()


@pytest.mark.parametrize("num", [1, PART, S])
def test_loss_and_gradients_are_those_of_all_logits_at_once(num: int) -> None:
    head, hidden, labels, weights = drawn(num)
    (3 * plain(head, hidden, labels, weights)).backward()
    expected = [hidden.grad, head.weight.grad]
    hidden.grad = head.weight.grad = None
    loss = HeadLoss(head)(hidden, labels, weights)
    (3 * loss).backward()
    assert loss.item() == pytest.approx(plain(head, hidden, labels, weights).item(), rel=1e-6)
    for found, wanted in zip((hidden.grad, head.weight.grad), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-8)


def test_a_frozen_head_gets_no_gradient_and_without_gradients_the_loss_is_the_same() -> None:
    head, hidden, labels, weights = drawn()
    head.weight.requires_grad_(False)
    loss = HeadLoss(head)(hidden, labels, weights)
    loss.backward()
    assert head.weight.grad is None
    assert hidden.grad is not None
    with torch.no_grad():
        assert HeadLoss(head)(hidden, labels, weights).item() == loss.item()


def test_nothing_to_learn_from_is_a_loss_of_zero() -> None:
    head, hidden, labels, weights = drawn()
    loss = HeadLoss(head)(hidden[:0], labels[:0], weights[:0])
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("autocast", [False, True])
def test_in_bfloat16_it_is_as_near_as_all_logits_at_once_are(autocast: bool) -> None:
    head, hidden, labels, weights = drawn()
    exact = plain(head, hidden, labels, weights).item()
    if not autocast:
        head, hidden = head.bfloat16(), hidden.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = HeadLoss(head)(hidden, labels, weights)
        other = plain(head, hidden, labels, weights)
    loss.backward()
    assert loss.dtype == torch.float32
    assert abs(loss.item() - exact) <= abs(other.item() - exact) + 1e-3
    assert hidden.grad is not None
    assert hidden.grad.dtype == hidden.dtype
