"""What an epoch of fine-tuning says about the experts."""

from __future__ import annotations

import logging

import pytest
import torch

from sonoloop.jobs.finetuning.worker import usage_metrics, warn_of_collapse
from sonoloop.model.expert_usage import ExpertUsage


@pytest.fixture
def usage() -> ExpertUsage:
    """Two layers of four experts: the first even, the second with one expert in use by a token in 1000."""
    made = ExpertUsage(num_layers=2, num_experts=4)
    made.add(0, torch.arange(4).repeat(250)[:, None])
    made.add(1, torch.tensor([0] * 400 + [1] * 400 + [2] * 199 + [3])[:, None])
    return made


def test_an_epoch_reports_the_worst_layer(usage: ExpertUsage) -> None:
    metrics = usage_metrics(usage)
    assert metrics["least_used_expert_share"] == pytest.approx(0.004)
    assert metrics["expert_balance"] == pytest.approx(usage.balance()[1].item())


def test_a_collapsed_expert_is_logged_with_its_layer(
    usage: ExpertUsage, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_collapse(usage, epoch=3)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "epoch 3: expert 3 of layer 1 got 0.40 % of an even share" in caplog.text


def test_even_use_is_not_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    even = ExpertUsage(num_layers=1, num_experts=2)
    even.add(0, torch.tensor([[0, 1]] * 10))
    with caplog.at_level(logging.WARNING):
        warn_of_collapse(even, epoch=0)
    assert caplog.records == []
    assert usage_metrics(even) == {"least_used_expert_share": 1.0, "expert_balance": 1.0}
