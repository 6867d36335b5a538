"""The cluster file, against the schema of the Ray that is installed."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

CLUSTER_FILE = Path(__file__).parents[1] / "cluster.yaml"
SCHEMA = json.loads(Path(ray.__file__).with_name("autoscaler").joinpath("ray-schema.json").read_text())


def test_the_cluster_file_is_valid_for_the_installed_ray() -> None:
    jsonschema.validate(yaml.safe_load(CLUSTER_FILE.read_text()), SCHEMA)


def test_the_check_would_notice_an_unknown_key() -> None:
    wrong = {**yaml.safe_load(CLUSTER_FILE.read_text()), "head_nod": "head"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)
