"""What `ray up` reads, against the schema and the checks of the installed Ray, and against our settings."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
import ray
import yaml
from botocore.stub import Stubber
from ray.autoscaler._private.util import prepare_config, validate_config

from sonoloop.jobs.annotating.placement import check_fits
from sonoloop.jobs.config import Config
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.settings import parse_settings

DEPLOY = Path(__file__).parents[2] / "deploy"
CLUSTER: dict[str, Any] = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())
SCHEMA = json.loads(Path(ray.__file__).with_name("autoscaler").joinpath("ray-schema.json").read_text())
SETTINGS = parse_settings(Config, (DEPLOY / "sonoloop.toml").read_text(), {}, source="deploy/sonoloop.toml")
WORKERS = {name: node for name, node in CLUSTER["available_node_types"].items() if name != "head"}
LOOKS_LIKE_A_KEY = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN|[0-9a-f]{40,}", re.IGNORECASE)


def test_the_cluster_file_is_valid_for_the_installed_ray() -> None:
    jsonschema.validate(CLUSTER, SCHEMA)
    validate_config(prepare_config(CLUSTER))


def test_the_check_would_notice_an_unknown_key() -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**CLUSTER, "head_nod": "head"}))


def test_the_head_works_for_nobody_and_ray_asks_for_a_token() -> None:
    assert CLUSTER["available_node_types"]["head"]["resources"] == {"CPU": 0}
    (head,) = [line for line in CLUSTER["head_start_ray_commands"] if "--head" in line]
    assert "--num-cpus=0" in head
    (worker,) = [line for line in CLUSTER["worker_start_ray_commands"] if "ray start" in line]
    for line in (head, worker):
        assert re.search(
            r'^secrets=.* && eval "\$secrets" && export RAY_AUTH_MODE=token && .*ray start', line
        )


def test_every_node_has_a_role_and_no_file_of_a_deployment_holds_a_key() -> None:
    for node in CLUSTER["available_node_types"].values():
        assert node["node_config"]["IamInstanceProfile"]["Name"].startswith("sonoloop-")
    files = [path for path in DEPLOY.rglob("*") if path.is_file() and path.name != ".env"]
    assert len(files) > 10
    for path in files:
        assert not LOOKS_LIKE_A_KEY.search(path.read_text()), path.name


def test_a_run_with_the_settings_of_the_deployment_fits_one_node_of_each_kind() -> None:
    nodes = [{name: float(n) for name, n in node["resources"].items()} for node in WORKERS.values()]
    check_fits(SETTINGS.annotate, nodes)
    for node in nodes:
        with pytest.raises(ConfigError):
            check_fits(SETTINGS.annotate, [node])


def test_the_settings_name_the_nodes_that_come_as_the_cluster_file_does() -> None:
    assert list(SETTINGS.annotate.nodes_to_come) == [node["resources"] for node in WORKERS.values()]


def test_prices_are_named_by_what_the_nodes_have() -> None:
    has = {name for node in WORKERS.values() for name in node["resources"]}
    has |= {f"{name}={value}" for node in WORKERS.values() for name, value in node.get("labels", {}).items()}
    assert set(SETTINGS.cost.node_hour) <= has


def test_the_secrets_of_a_node_come_out_as_lines_for_a_shell() -> None:
    script = runpy.run_path(str(DEPLOY / "aws" / "secrets.py"))
    client = boto3.client("ssm", region_name="eu-central-1", aws_access_key_id="a", aws_secret_access_key="b")
    asked = {"Path": "/sonoloop", "WithDecryption": True}
    given = [{"Name": "/sonoloop/RAY_AUTH_TOKEN", "Value": "a b"}, {"Name": "/sonoloop/X", "Value": "$1"}]
    with Stubber(client) as stub:  # it checks both sides against AWS's own description
        stub.add_response("get_parameters_by_path", {"Parameters": given}, asked)
        found = script["parameters_below"](client, "/sonoloop")
    with pytest.raises(SystemExit, match="SONOLOOP_PSEUDONYM_KEY not found"):
        script["exports"](found)
    lines = script["exports"]({**found, "SONOLOOP_PSEUDONYM_KEY": "k"})
    assert lines.splitlines() == [
        "export RAY_AUTH_TOKEN='a b'",
        "export SONOLOOP_PSEUDONYM_KEY=k",
        "export X='$1'",
    ]


def test_the_policies_name_no_star_for_what_writes() -> None:
    for name in ("node", "head"):
        policy = json.loads((DEPLOY / "aws" / f"{name}-policy.json").read_text())
        for statement in policy["Statement"]:
            assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}
            assert not any("*" in action for action in statement["Action"])
            if any(action.startswith(("s3:", "ssm:", "iam:")) for action in statement["Action"]):
                assert statement["Resource"] != "*"


def test_the_head_changes_and_ends_no_machines_but_its_own() -> None:
    policy = json.loads((DEPLOY / "aws" / "head-policy.json").read_text())
    own = {"ec2:ResourceTag/ray-cluster-name": CLUSTER["cluster_name"]}
    for statement in policy["Statement"]:
        if {"ec2:CreateTags", "ec2:TerminateInstances"} & set(statement["Action"]):
            asked = statement["Condition"]["StringEquals"]
            new = statement["Action"] == ["ec2:CreateTags"] and asked == {"ec2:CreateAction": "RunInstances"}
            assert new or asked == own
