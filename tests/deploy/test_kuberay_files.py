"""What KubeRay reads: pods against Kubernetes's own schemas, the rest against KubeRay's fields.

The fields stand here as a table, since no package brings KubeRay's schema: apiserver and operator have the
last word. They were read in KubeRay's own API reference; the newest, `authOptions`, is of release 1.5.1.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from sonoloop.jobs.annotating.placement import check_fits
from sonoloop.jobs.config import Config
from sonoloop.platform.settings import parse_settings
from sonoloop.serve import wire
from sonoloop.serve.config import ServeSettings, WireConfig

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = "1.33"
RAY = "2.60.0"
CLUSTER_FIELDS = {
    "rayVersion",
    "authOptions",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "headGroupSpec",
    "workerGroupSpecs",
}
AUTOSCALER_FIELDS = {"version", "idleTimeoutSeconds", "resources", "securityContext"}
HEAD_FIELDS = {"rayStartParams", "template"}
WORKER_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
JOB_FIELDS = {"entrypoint", "clusterSelector", "submissionMode", "submitterConfig", "submitterPodTemplate"}
LEAST = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""What Kubernetes's "restricted" asks of every container."""
SERVICE_FIELDS = {"serveConfigV2", "rayClusterConfig", "excludeHeadPodFromServeSvc"}


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "kuberay" / f"{name}.yaml").read_text())
    return found


CLUSTERS = {
    "raycluster": read("raycluster")["spec"],
    "rayservice": read("rayservice")["spec"]["rayClusterConfig"],
}
SERVE = ServeDeploySchema.model_validate(yaml.safe_load(read("rayservice")["spec"]["serveConfigV2"]))
JOBS = {name: read(f"rayjob-{name}")["spec"] for name in ("annotate", "finetune")}
PODS = {
    **{f"{name} head": spec["headGroupSpec"]["template"] for name, spec in CLUSTERS.items()},
    **{
        f"{name} {group['groupName']}": group["template"]
        for name, spec in CLUSTERS.items()
        for group in spec["workerGroupSpecs"]
    },
    **{f"job {name}": spec["submitterPodTemplate"] for name, spec in JOBS.items()},
}


@pytest.mark.parametrize("template", PODS.values(), ids=PODS)
def test_a_pod_is_valid_for_kubernetes(template: dict[str, Any]) -> None:
    whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": template}
    kubernetes_validate.validate(whole, KUBERNETES, strict=True)


def test_the_check_would_notice_a_misspelt_field() -> None:
    pod = {"spec": {"containers": [{"name": "a", "image": "b", "readynessProbe": {}}]}}
    whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": pod}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(whole, KUBERNETES, strict=True)


def test_the_account_is_valid_for_kubernetes() -> None:
    kubernetes_validate.validate(read("account"), KUBERNETES, strict=True)


@pytest.mark.parametrize("spec", CLUSTERS.values(), ids=CLUSTERS)
def test_a_cluster_has_fields_that_kuberay_knows_and_asks_for_a_token(spec: dict[str, Any]) -> None:
    assert set(spec) == CLUSTER_FIELDS
    assert (spec["rayVersion"], spec["authOptions"]) == (RAY, {"mode": "token"})
    assert set(spec["autoscalerOptions"]) == AUTOSCALER_FIELDS
    assert spec["autoscalerOptions"]["securityContext"] == LEAST  # its container stands in the head's pod
    assert set(spec["headGroupSpec"]) == HEAD_FIELDS
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert set(group) == WORKER_FIELDS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


@pytest.mark.parametrize("template", PODS.values(), ids=PODS)
def test_a_pod_runs_as_nobody_special_with_its_memory_bounded(template: dict[str, Any]) -> None:
    (container,) = template["spec"]["containers"]
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == LEAST
    assert "cpu" in container["resources"]["requests"]
    assert "memory" in container["resources"]["limits"]
    for variable in container.get("env", ()):
        assert not re.search("KEY|TOKEN|SECRET|PASSWORD", variable["name"])


@pytest.mark.parametrize("spec", CLUSTERS.values(), ids=CLUSTERS)
def test_what_a_pod_holds_is_what_ray_is_told_of_it(spec: dict[str, Any]) -> None:
    for group in spec["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        requests, told = container["resources"]["requests"], group["rayStartParams"]
        assert told["num-cpus"] == requests["cpu"]
        assert told.get("num-gpus", "0") == str(requests.get("nvidia.com/gpu", 0))


def test_a_run_with_the_settings_of_the_deployment_fits_one_pod_of_each_group() -> None:
    settings = parse_settings(
        Config, (DEPLOY / "sonoloop.toml").read_text(), {}, source="deploy/sonoloop.toml"
    )
    check_fits(settings.annotate, [_node(group) for group in CLUSTERS["raycluster"]["workerGroupSpecs"]])


def _node(group: dict[str, Any]) -> dict[str, float]:
    told = group["rayStartParams"]
    custom = json.loads(json.loads(told["resources"]))  # quoted for the shell that starts Ray
    return {"CPU": float(told["num-cpus"]), "GPU": float(told.get("num-gpus", "0")), **custom}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_runs_its_verb_on_the_cluster_of_these_files(name: str) -> None:
    spec = JOBS[name]
    assert set(spec) == JOB_FIELDS
    assert spec["entrypoint"].startswith(f"sonoloop {name} --config s3://")
    assert spec["clusterSelector"] == {"ray.io/cluster": read("raycluster")["metadata"]["name"]}


def test_the_service_gives_serve_a_configuration_that_it_reads() -> None:
    spec = read("rayservice")["spec"]
    assert set(spec) == SERVICE_FIELDS
    told = SERVE.applications
    assert [(one.name, one.route_prefix) for one in told] == [("keeper", None), ("sonoloop", "/")]
    for one in told:
        module, _, name = one.import_path.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_the_service_listens_as_sonoloop_serve_would_with_the_same_settings() -> None:
    settings = parse_settings(
        ServeSettings, (DEPLOY / "sonoloop.toml").read_text(), {}, source="deploy/sonoloop.toml"
    )
    assert wire.http_options(settings.serve).items() <= SERVE.http_options.model_dump().items()
    variables = SERVE.controller_options.runtime_env["env_vars"]
    assert variables[wire.VARIABLE] == wire.IMPORT_PATH
    assert settings.serve.wire == WireConfig()  # which proxies take that are told of no other
