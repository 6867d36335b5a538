"""Whether the cluster can hold a run: refused before anything waits for ever.

Beside the actors that are configured, Ray Data holds a logical CPU for the filter of its checkpoint, wherever
it likes, and each task that reads, cuts or writes takes another (Ray 2.60). Tasks come and go; actors stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from sonoloop.jobs.config import AnnotateConfig
from sonoloop.platform.errors import ConfigError

Resources = Mapping[str, float]
FILTER: Resources = {"CPU": 1}
TASK: Resources = {"CPU": 1}
_SLACK = 1e-6


def model_pool(config: AnnotateConfig) -> dict[str, Any]:
    """Arguments of Ray Data's ``map_batches`` for actors that hold a model: how many, and what each holds."""
    return {
        "compute": ActorPoolStrategy(min_size=config.num_actors, max_size=config.most_actors),
        "num_cpus": config.cpus_per_actor,
        "num_gpus": config.gpus_per_actor,
        "resources": config.actor_resources,
    }


@dataclass(frozen=True)
class Demand:
    """What a run needs to get anywhere.

    Attributes:
        actor: What a model actor holds.
        num_actors: So many of them.
        preparer: What a preparer holds.
    """

    actor: Resources
    num_actors: int
    preparer: Resources

    @classmethod
    def of(cls, config: AnnotateConfig) -> Demand:
        """Of a configuration."""
        actor = {"CPU": config.cpus_per_actor, "GPU": config.gpus_per_actor, **config.actor_resources}
        preparer = {"CPU": config.cpus_per_preparer, **config.preparer_resources}
        return cls(actor, config.num_actors, preparer)

    def total(self) -> dict[str, float]:
        """All of it, by resource."""
        wanted = [*[self.actor] * self.num_actors, self.preparer, FILTER, TASK]
        names = dict.fromkeys(name for held in wanted for name in held)
        return {name: sum(held.get(name, 0) for held in wanted) for name in names}


def check_schedulable(config: AnnotateConfig) -> None:
    """Refuse actors that would wait for ever in the cluster that this process is connected to.

    Raises:
        ConfigError: as of `check_fits`.
    """
    check_fits(config, [node["Resources"] for node in ray.nodes() if node["Alive"]] + nodes_to_come(config))


def nodes_to_come(config: AnnotateConfig) -> list[Resources]:
    """What an autoscaler may add, of each kind as many nodes as could make a difference.

    Taken from the configuration: Ray itself does not tell (2.60, neither with `ray up` nor with KubeRay).
    """
    enough = config.most_actors + len(("a preparer", "the filter", "a task"))
    return [kind for kind in config.nodes_to_come for _ in range(enough)]


def check_fits(config: AnnotateConfig, nodes: list[Resources]) -> None:
    """Refuse a configuration whose actors might find no place on these nodes.

    Raises:
        ConfigError: too few logical CPUs, GPUs or custom resources in all, or no node that holds an actor
            together with what else may come to it.
    """
    demand = Demand.of(config)
    for name, amount in demand.total().items():
        there = sum(node.get(name, 0) for node in nodes)
        if there + _SLACK < amount:
            what = {"CPU": "logical CPUs", "GPU": "GPUs"}.get(name, f"of the resource {name}")
            raise ConfigError(
                f"annotate needs {amount:g} {what}, the cluster has {there:g}; "
                "lower annotate.num_actors or what an actor or a preparer holds, or add nodes"
            )
    unplaced = _first_unplaced(demand, nodes)
    if unplaced is not None:
        raise ConfigError(
            f"no node has room for {unplaced[0]} that holds {_words(unplaced[1])}, beside what Ray Data may "
            f"put there: {_words(FILTER)} and a preparer; lower what an actor holds, keep preparers "
            "elsewhere by annotate.preparer_resources, or add nodes"
        )


def _first_unplaced(demand: Demand, nodes: list[Resources]) -> tuple[str, Resources] | None:
    """What finds no place when Ray puts the others where they hurt most: on the nodes of the model actors."""
    free = [dict(node) for node in nodes]
    free.sort(key=lambda node: not _fits(demand.actor, node))
    wanted = [("the checkpoint's filter", FILTER), ("a preparer", demand.preparer)]
    wanted += [("a model actor", demand.actor)] * demand.num_actors + [("a task", TASK)]
    for name, held in wanted:
        node = next((node for node in free if _fits(held, node)), None)
        if node is None:
            return name, held
        for resource, amount in held.items():
            node[resource] = node.get(resource, 0) - amount
    return None


def _fits(held: Resources, node: Resources) -> bool:
    return all(node.get(name, 0) + _SLACK >= amount for name, amount in held.items())


def _words(held: Resources) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in held.items() if amount)
