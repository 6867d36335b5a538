"""Label Studio, PostgreSQL and S3 for Docker, against the compose specification and our own stack."""

from __future__ import annotations

import re
import shlex
import stat
import subprocess
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml

from sonoloop.platform.labelstudio.page_keys import EDITOR_KEYMAP
from sonoloop.platform.stack.postgres import Database

DEPLOY = Path(__file__).parents[2] / "deploy"
TEXT = (DEPLOY / "compose.yaml").read_text()


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What `make-secrets` writes, made by a copy of it elsewhere."""
    script = tmp_path_factory.mktemp("deploy") / "make-secrets"
    script.write_text((DEPLOY / "make-secrets").read_text())
    script.chmod(0o700)
    subprocess.run([script], check=True, capture_output=True)
    path = script.with_name(".env")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_text()
    assert subprocess.run([script], check=False, capture_output=True).returncode == 1
    assert path.read_text() == before
    return dict(line.split("=", 1) for line in before.splitlines())


@pytest.fixture(scope="module")
def services(secrets: dict[str, str]) -> dict[str, Any]:
    """The services with every variable in its place, as compose would put it there."""
    filled = re.sub(r"\$\{(\w+)(:\?[^}]*)?\}", lambda found: secrets[found[1]], TEXT)
    parsed = compose_spec.PyCompose.from_yaml(filled)
    assert len(parsed) == 3
    found: dict[str, Any] = yaml.safe_load(filled)["services"]
    return found


def test_the_check_would_notice_a_misspelt_key() -> None:
    with pytest.raises(ValueError, match="helthcheck"):
        compose_spec.PyCompose.from_yaml("services: {a: {image: b, helthcheck: {}}}")


def test_no_secret_stands_in_the_file_and_none_may_be_missing(secrets: dict[str, str]) -> None:
    asked = set(re.findall(r"\$\{(\w+):\?", TEXT))
    assert asked <= set(secrets)
    assert {"POSTGRES_PASSWORD", "LABEL_STUDIO_SECRET_KEY", "AWS_SECRET_ACCESS_KEY"} <= asked
    assert set(re.findall(r"\$\{(\w+)", TEXT)) == asked


def test_made_secrets_are_read_alike_by_every_reader(secrets: dict[str, str]) -> None:
    for name, value in secrets.items():
        assert shlex.quote(value) == value, name
        assert "$" not in value
        if re.search("PASSWORD|KEY", name):
            assert re.fullmatch("[0-9a-f]{20,}", value), name


def test_images_have_versions_and_ports_are_open_to_this_machine_only(services: dict[str, Any]) -> None:
    for service in services.values():
        assert re.search(r":\d+\.\d+", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert service["healthcheck"]["test"][0] == "CMD"


def test_label_studio_gets_what_our_own_stack_gives_it(
    services: dict[str, Any], secrets: dict[str, str]
) -> None:
    given = services["labelstudio"]["environment"]
    password = secrets["POSTGRES_PASSWORD"]
    database = Database(
        is_own=True, host="postgres", port=5432, name="labelstudio", user="labelstudio", password=password
    )
    assert database.environment().items() <= given.items()
    assert given["SECRET_KEY"] == secrets["LABEL_STUDIO_SECRET_KEY"]
    assert given["EDITOR_KEYMAP"] == EDITOR_KEYMAP


def test_the_s3_command_is_one_that_seaweedfs_takes(services: dict[str, Any]) -> None:
    from sonoloop.platform.stack.s3 import find_binary

    told = subprocess.run([find_binary(), "mini", "-h"], capture_output=True, text=True, check=False)
    known = set(re.findall(r"^  -([\w.]+)", told.stdout + told.stderr, re.MULTILINE))
    used = {
        option[1:].split("=")[0] for option in services["s3"]["command"].split() if option.startswith("-")
    }
    assert len(used) > 10
    assert used <= known
