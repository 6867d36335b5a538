"""Twenty steps of nano on drawn reviews give the losses that were stored: what a refactor must not move.

``python tests/model/test_training_curves.py`` writes the file anew, for a change that is meant to move them.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from sonoloop.model import nano
from sonoloop.model.checkpoint import load_model
from sonoloop.model.prepared import CaseInput, prepare
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.model.supervised import SupervisedExample, Target, collate
from sonoloop.model.training.batching import plan_batches
from sonoloop.model.training.objective import Objective
from sonoloop.model.training.recipes import RecipeConfig, RecipeName, recipe
from sonoloop.model.training.schedule import learning_rate_factor
from sonoloop.model.training.tasks import task_example, task_of
from sonoloop.model.training.trainable import make_trainable, parameter_groups
from sonoloop.platform.lexicon import Organ
from sonoloop.platform.phantoms.case import draw_case

STORED = Path(__file__).parent.parent / "fixtures" / "training_curves.json"
NUM_STEPS = 20
TOLERANCE = 1e-3  # relative: kernels of another processor round otherwise, and 20 steps of Adam add it up
ORGANS: tuple[Organ, ...] = ("breast", "thyroid")


def examples(processor: EchoVLMProcessor, config: RecipeConfig) -> list[SupervisedExample]:
    """Sixteen drawn reviews beside images of noise, each as the task that the recipe's mix gives it."""
    made = []
    for index in range(16):
        organ = ORGANS[index % 2]
        drawn = draw_case(5, index, organ, "A")
        pixels = np.random.default_rng(index).integers(0, 256, (84, 112), dtype=np.uint8)
        case = prepare(processor, CaseInput(f"case-{index}", (pixels,) * (1 + index % 3), organ))
        target = Target(drawn.findings, drawn.impression, drawn.entities, ())
        task = task_of(case.case_id, config.tasks, seed=0, epoch=0)
        made.append(task_example(processor, case, target, task, weight=1 + index % 2))
    return made


def curve(name: RecipeName) -> list[float]:
    torch.set_num_threads(1)
    config, processor = recipe(name), EchoVLMProcessor.from_folder(nano.folder())
    model = load_model(nano.folder(), dtype=torch.float32)
    make_trainable(model, config)
    optimizer = torch.optim.AdamW(parameter_groups(model, config, learning_rate=5e-4, weight_decay=0.01))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, NUM_STEPS, warmup=3)
    )
    objective = Objective(model.train())
    data = examples(processor, config)
    lengths = [len(example.input_ids) for example in data]
    steps = (
        batch
        for epoch in range(NUM_STEPS)
        for batch in plan_batches(lengths, batch_size=4, world=1, seed=0, epoch=epoch)[0]
    )
    losses = []
    for rows in islice(steps, NUM_STEPS):
        found = objective(**collate([data[index] for index in rows], processor.tokenizer.pad_token_id))
        optimizer.zero_grad()
        found["total"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(found["total"].item())
    return losses


@pytest.mark.parametrize("name", ["corrections", "full"])
def test_losses_follow_the_stored_curve(name: RecipeName) -> None:
    found, stored = curve(name), json.loads(STORED.read_text())[name]
    assert np.mean(found[-4:]) < 0.8 * np.mean(found[:4])  # it learns
    assert found == pytest.approx(stored, rel=TOLERANCE)


if __name__ == "__main__":
    curves = {name: [round(loss, 6) for loss in curve(name)] for name in ("corrections", "full")}
    STORED.write_text(json.dumps(curves, indent=1) + "\n")
