"""From the last checkpoint to a version in the registry, on whichever node has room.

The base is held once, in float32: the very weights that the optimizer kept, adapters folded in. Tensors of a
checkpoint are copied into it one by one; nothing is gathered from the workers, who have ended by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import torch
from ray.train import Checkpoint

from sonoloop.jobs.annotating.patience import Patience
from sonoloop.jobs.finetuning import checkpoints
from sonoloop.jobs.finetuning.config import FinetuneConfig
from sonoloop.model.checkpoint import copy_companions, load_model, save_model
from sonoloop.model.training.recipes import RecipeConfig
from sonoloop.model.training.trainable import make_trainable, merge
from sonoloop.model.upcycle import upcycle
from sonoloop.platform import registry
from sonoloop.platform.storage_errors import storage_errors
from sonoloop.platform.workspace import Store


def publish_trained(
    workspace: Store,
    base: str,
    checkpoint: Checkpoint,
    config: FinetuneConfig,
    *,
    lineage: Mapping[str, Any],
) -> str:
    """Publish what a training made; returns the model version. The same again changes nothing.

    Raises:
        StorageError: no room for it; the same command goes on here.
    """
    task = ray.remote(num_cpus=config.cpus_per_worker)(_publish_trained)
    version: str = ray.get(task.remote(workspace, base, checkpoint, config, dict(lineage)))
    return version


def publish_upcycled(workspace: Store, base: str, config: FinetuneConfig) -> str:
    """Publish a dense base with experts beside its MLPs, for a recipe that begins so; its version.

    Raises:
        CheckpointError: the base is EchoVLM already, or no Qwen2-VL.
    """
    task = ray.remote(num_cpus=config.cpus_per_worker)(_publish_upcycled)
    version: str = ray.get(task.remote(workspace, base, config))
    return version


def _publish_trained(
    workspace: Store, base: str, checkpoint: Checkpoint, config: FinetuneConfig, lineage: dict[str, Any]
) -> str:
    patiently = Patience(config.storage_patience_s)
    folder = patiently(registry.fetch, workspace, base)
    with TemporaryDirectory(prefix="sonoloop-model-") as name:
        target = Path(name, "model")
        with storage_errors(f"the folder of temporary files, {Path(name).parent}"):
            write_trained(folder, Path(checkpoint.to_directory(f"{name}/checkpoint")), config.recipe, target)
        version: str = patiently(registry.publish, workspace, target, base.partition("/")[0], lineage=lineage)
    return version


def write_trained(folder: Path, checkpoint: Path, recipe: RecipeConfig, target: Path) -> None:
    """Write the base with a checkpoint's weights in it as a model folder.

    Args:
        folder: The base.
        checkpoint: The training's last.
        recipe: The training's.
        target: Where to write; made.
    """
    model = load_model(folder, dtype=torch.float32)
    make_trainable(model, recipe)
    checkpoints.load_weights(model, checkpoint, base_share=recipe.base_share)
    merge(model)
    save_model(model, target)
    copy_companions(folder, target)


def _publish_upcycled(workspace: Store, base: str, config: FinetuneConfig) -> str:
    patiently = Patience(config.storage_patience_s)
    folder = patiently(registry.fetch, workspace, base)
    with TemporaryDirectory(prefix="sonoloop-upcycled-") as name:
        upcycle(folder, Path(name))
        version: str = patiently(
            registry.publish, workspace, Path(name), base.partition("/")[0], lineage={"upcycled_from": base}
        )
    return version
