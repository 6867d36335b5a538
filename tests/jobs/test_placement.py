"""Which configurations a cluster holds: what might wait for ever is refused, what fits is not."""

from __future__ import annotations

import pytest

from sonoloop.jobs.annotating.placement import check_fits, nodes_to_come
from sonoloop.jobs.config import AnnotateConfig
from sonoloop.platform.errors import ConfigError

CPU_NODE = {"CPU": 4.0}
GPU_NODE = {"CPU": 4.0, "GPU": 1.0, "accelerator": 1.0}


def test_one_machine_needs_a_cpu_for_the_filter_and_one_for_tasks_beside_the_actors() -> None:
    check_fits(AnnotateConfig(), [{"CPU": 3.5}])
    with pytest.raises(ConfigError, match=r"needs 3.5 logical CPUs, the cluster has 3;"):
        check_fits(AnnotateConfig(), [{"CPU": 3.0}])


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"gpus_per_actor": 2}, "needs 2 GPUs, the cluster has 1"),
        ({"actor_resources": {"tpu": 1}}, "needs 1 of the resource tpu, the cluster has 0"),
        ({"preparer_resources": {"decoder": 0.5}}, "needs 0.5 of the resource decoder, the cluster has 0"),
        ({"cpus_per_actor": 5}, "no node has room for a model actor that holds 5 CPU"),
        ({"cpus_per_actor": 3, "gpus_per_actor": 1}, "no node has room for a model actor .* 3 CPU, 1 GPU"),
    ],
)
def test_what_no_node_can_hold_is_named(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        check_fits(AnnotateConfig.model_validate(settings), [CPU_NODE, GPU_NODE])


def test_preparers_kept_elsewhere_leave_their_room_to_the_model_actor() -> None:
    kept = AnnotateConfig(cpus_per_actor=3, gpus_per_actor=1, preparer_resources={"cpu_node": 0.1})
    check_fits(kept, [{**CPU_NODE, "cpu_node": 1}, GPU_NODE])


def test_several_actors_may_lie_on_several_nodes_but_none_is_cut_in_two() -> None:
    two = AnnotateConfig(num_actors=2, cpus_per_actor=2)
    check_fits(two, [CPU_NODE, GPU_NODE])
    with pytest.raises(ConfigError, match="no node has room for a model actor that holds 2 CPU"):
        check_fits(two, [{"CPU": 1.5}] * 8)


def test_nodes_that_a_cluster_adds_when_wanted_count_as_there() -> None:
    growing = AnnotateConfig(actor_resources={"accelerator": 1}, nodes_to_come=(CPU_NODE, GPU_NODE))
    assert nodes_to_come(AnnotateConfig()) == []
    check_fits(growing, nodes_to_come(growing))
    without = growing.model_copy(update={"nodes_to_come": (CPU_NODE,)})
    with pytest.raises(ConfigError, match="needs 1 of the resource accelerator, the cluster has 0"):
        check_fits(without, nodes_to_come(without))
