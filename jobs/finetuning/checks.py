"""Refused before anything is trained: a base that contradicts itself, a cluster without the room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import ray

from sonoloop.jobs.finetuning.config import FinetuneConfig
from sonoloop.model.configuration import read_config
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.platform.errors import CheckpointError, ConfigError

Resources = Mapping[str, float]
_SLACK = 1e-6
_ADVICE = {
    "CPU": "lower finetune.num_workers or cpus_per_worker, set min_workers, or add nodes",
    "GPU": "set finetune.use_gpu = false, lower finetune.num_workers, or add nodes with GPUs",
}


def check_vocabulary(folder: Path, processor: EchoVLMProcessor) -> None:
    """See that a base's tokenizer and its embedding belong together.

    Raises:
        CheckpointError: the tokenizer writes ids that the embedding lacks, or images with another token.
    """
    config = read_config(folder)
    rows, largest = config.text_config.vocab_size, max(processor.tokenizer.get_vocab().values())
    if largest >= rows:
        raise CheckpointError(
            f"the base's tokenizer writes token ids up to {largest}, its embedding has {rows} rows; publish "
            "the tokenizer that the weights were trained with"
        )
    if processor.image_token_id != config.image_token_id:
        raise CheckpointError(
            f"the base's tokenizer writes images as token {processor.image_token_id}, its configuration says "
            f"{config.image_token_id}; publish the tokenizer that the weights were trained with"
        )


def check_schedulable(config: FinetuneConfig, nodes_to_come: Sequence[Resources] = ()) -> None:
    """Refuse workers that would wait for ever in the cluster that this process is connected to.

    Raises:
        ConfigError: as of `check_fits`.
    """
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    check_fits(config, alive + [kind for kind in nodes_to_come for _ in range(config.num_workers)])


def check_fits(config: FinetuneConfig, nodes: Sequence[Resources]) -> None:
    """Refuse a configuration whose workers find no place on these nodes.

    Raises:
        ConfigError: too few logical CPUs or GPUs for the fewest workers and what prepares for them.
    """
    fewest = config.min_workers or config.num_workers
    worker = {"CPU": config.cpus_per_worker, "GPU": 1.0 if config.use_gpu else 0.0}
    preparing = fewest * config.preparers_per_worker * config.cpus_per_preparer
    wanted = {"CPU": fewest * config.cpus_per_worker + preparing, "GPU": fewest * worker["GPU"]}
    for name, amount in wanted.items():
        there = sum(node.get(name, 0) for node in nodes)
        if there + _SLACK < amount:
            what = {"CPU": "logical CPUs", "GPU": "GPUs"}[name]
            raise ConfigError(
                f"finetune needs {amount:g} {what} for {fewest} workers{_and(config, name)}, the cluster has "
                f"{there:g}; {_ADVICE[name]}"
            )
    if (room := sum(_held(worker, node) for node in nodes)) < fewest:
        raise ConfigError(
            f"the nodes have room for {room} of {fewest} workers that hold {config.cpus_per_worker:g} CPU"
            f"{' and a GPU' if config.use_gpu else ''} each; lower finetune.num_workers or cpus_per_worker, "
            "or add nodes"
        )


def _held(worker: Resources, node: Resources) -> int:
    """How many workers a node holds."""
    return min(int((node.get(name, 0) + _SLACK) // amount) for name, amount in worker.items() if amount)


def _and(config: FinetuneConfig, name: str) -> str:
    return f" and {config.preparers_per_worker} preparers each" if name == "CPU" else ""
