"""What a model is fed, step by step."""

from __future__ import annotations

import pytest
from torch import Tensor

from sonoloop.model.runner import ModelRunner


def watch_steps(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens fed by each step from now on."""
    fed: list[int] = []
    step = runner.step

    def counted(embeddings: Tensor, *rest: object) -> Tensor:
        fed.append(len(embeddings))
        return step(embeddings, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "step", counted)
    return fed
