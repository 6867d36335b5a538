"""Real parts, really broken: each is found, with a remedy, in bounded time."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from sonoloop.jobs import doctor
from sonoloop.jobs.config import Config
from sonoloop.jobs.doctoring import machine, services, storage
from sonoloop.jobs.doctoring.finding import Finding, findings_of, ok
from sonoloop.jobs.init import run_init
from sonoloop.platform.registry.cache import cache_root
from sonoloop.platform.stack import Component, StackConfig, StackInfo, start, stop
from sonoloop.platform.stack import s3 as stack_s3_module
from sonoloop.platform.storage_errors import storage_errors


def by_what(found: Iterable[Finding]) -> dict[str, Finding]:
    return {one.what: one for one in found}


def seen(area: str, look: Any, limit_s: float = 300) -> dict[str, Finding]:
    return by_what(findings_of([(area, look)], limit_s=limit_s))


# --- the frame ---


def test_a_look_that_hangs_or_fails_is_a_problem_and_hides_no_other() -> None:
    may_end = threading.Event()

    def hangs() -> Iterator[Finding]:
        yield ok("a", "first", "fine")
        may_end.wait()

    def fails() -> Iterator[Finding]:
        raise RuntimeError("Jane Doe")
        yield

    found = list(findings_of([("a", hangs), ("b", fails), ("c", lambda: [ok("c", "x", "y")])], limit_s=2))
    may_end.set()
    assert [(one.area, one.what, one.state) for one in found] == [
        ("a", "first", "ok"),
        ("a", "time", "problem"),
        ("b", "look", "problem"),
        ("c", "x", "ok"),
    ]
    assert "Jane" not in str(found)


def test_it_works_before_anything_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "RAY_LIMIT_S", 0.1)
    monkeypatch.setenv("SONOLOOP_PSEUDONIM_KEY", "hush-hush")
    monkeypatch.setenv("SONOLOOP_PSEUDONYM_KEY", "short")
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    found = doctor.diagnose(str(tmp_path / "none.toml"))
    named = by_what(found.findings)
    assert not found.healthy
    assert named["file"].state == "problem"
    assert "examples/sonoloop.toml" in named["file"].remedy
    assert (named["version"].state, named["packages"].state) == ("ok", "ok")
    assert named["LABEL_STUDIO_API_KEY"].state == "warning"
    assert "at least 16 characters" in named["SONOLOOP_PSEUDONYM_KEY"].found
    assert named["SONOLOOP_PSEUDONIM_KEY"].remedy == "did you mean SONOLOOP_PSEUDONYM_KEY?"
    assert "hush-hush" not in found.model_dump_json()
    assert all(one.remedy and "\n" not in one.remedy for one in found.findings if one.state != "ok")


# --- this machine ---


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = Config(workspace="w", archive="a", serve={"port": taken.getsockname()[1]})
        (found,) = machine.ports(config)
    assert (found.state, "serve.port" in found.remedy) == ("warning", True)
    (free,) = machine.ports(config)
    assert free.state == "ok"


@pytest.mark.parametrize(
    ("serve", "state"),
    [({"port": "many"}, "problem"), ({"port": 70_000}, "problem"), ({"host": "no.such.invalid"}, "warning")],
)
def test_an_address_that_is_none_is_named(serve: dict[str, Any], state: str) -> None:
    found = seen("ports", partial(machine.ports, Config(workspace="w", archive="a", serve=serve)))
    (one,) = found.values()
    assert (one.state, "report this" in one.remedy) == (state, False)
    assert "Unknown error" not in one.found


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "full"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=False
    ).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        (folder / "filler").write_bytes(bytes(shutil.disk_usage(folder).free))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_found_by_its_room_and_by_a_write(full_disk: Path) -> None:
    config = Config(workspace=str(full_disk), archive="a")
    assert seen("machine", partial(machine.machine, config))["disk, workspace"].state == "problem"
    put = seen("storage", partial(storage.workspace, config))["put"]
    assert (put.state, put.remedy) == ("problem", "is the disk full, or read-only?")


def test_a_workspace_in_a_folder_is_tried_and_left_as_it_was(config: Config) -> None:
    found = seen("storage", partial(storage.workspace, config))
    assert {one.state for one in found.values()} == {"ok"}
    assert set(found) == {"list", "put", "get", "delete", "If-None-Match", "If-Match", "conditional put"}
    assert not [
        path for path in Path(config.workspace).rglob("*") if path.is_file() and path.suffix != ".lock"
    ]


def test_a_store_that_ignores_conditions_is_a_problem(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_class = type(config.open_workspace())
    monkeypatch.setattr(
        store_class, "put_control", lambda self, data, *parts, **_: self.write_bytes(data, *parts)
    )
    found = seen("storage", partial(storage.workspace, config))
    assert (found["If-None-Match"].state, found["If-Match"].state) == ("problem", "problem")
    assert "cannot hold a workspace" in found["If-Match"].remedy


# --- S3 ---


@dataclass(frozen=True)
class TwoKeys:
    """An S3 with a key that may do everything, and one that may only read."""

    endpoint: str
    reader: tuple[str, str]
    owner: tuple[str, str]


@pytest.fixture(scope="module")
def two_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoKeys]:
    folder = tmp_path_factory.mktemp("two-keys")
    keys = [(f"SL{secrets.token_hex(9).upper()}", secrets.token_hex(20)) for _ in range(2)]
    identities = [
        {"name": name, "credentials": [{"accessKey": key[0], "secretKey": key[1]}], "actions": actions}
        for name, key, actions in zip(
            ("owner", "reader"), keys, (["Admin", "Read", "Write", "List"], ["Read", "List"]), strict=True
        )
    ]
    stack_s3_module.keys_file(folder).write_text(json.dumps({"identities": identities}))
    info = start(StackConfig(folder=folder, components=(Component.S3,)))
    assert info.s3_endpoint is not None
    yield TwoKeys(info.s3_endpoint, keys[1], keys[0])
    stop(folder)


@pytest.fixture
def on_s3(two_keys: TwoKeys, monkeypatch: pytest.MonkeyPatch) -> Config:
    use_key(monkeypatch, two_keys.owner)
    return Config(
        workspace="s3://sonoloop-workspace/w",
        archive="s3://sonoloop-archive/a",
        s3={"endpoint_url": two_keys.endpoint},
        labelstudio={"url": "https://studio.example"},
    )


def use_key(monkeypatch: pytest.MonkeyPatch, key: tuple[str, str]) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key[1])


def test_an_s3_is_tried_in_all_that_the_loop_does_and_left_empty(
    on_s3: Config, two_keys: TwoKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = seen("storage", partial(storage.workspace, on_s3))
    states = {what: one.state for what, one in found.items()}
    assert states.pop("browser") == "problem"  # the bucket knows the pages of its own stack only
    assert set(states.values()) == {"ok"}, found
    assert {"upload in parts", "clock", "If-None-Match", "If-Match", "delete"} <= set(states)
    assert "https://studio.example may not load images" in found["browser"].found
    assert list(on_s3.open_workspace().list_objects()) == []
    assert seen("storage", partial(storage.archive, on_s3))["archive"].state == "warning"
    client = on_s3.open_workspace().client
    stack_s3_module.allow_origins(client, "sonoloop-workspace", ("https://studio.example",))
    assert seen("storage", partial(storage.workspace, on_s3))["browser"].state == "ok"


def test_a_key_that_may_not_put_is_found(
    on_s3: Config, two_keys: TwoKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_key(monkeypatch, two_keys.reader)
    found = seen("storage", partial(storage.workspace, on_s3))
    assert found["list"].state == "ok"
    assert (found["put"].state, found["put"].remedy) == (
        "problem",
        "give the key the right s3:PutObject there",
    )
    assert two_keys.reader[1] not in str(found)


def test_a_bucket_that_is_not_there_and_a_wrong_secret_are_told_apart(
    on_s3: Config, two_keys: TwoKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = on_s3.model_copy(update={"workspace": "s3://no-such-bucket/w"})
    found = seen("storage", partial(storage.workspace, absent))["answer"]
    assert "no such bucket" in found.found
    assert found.remedy == "create it or correct the address"
    use_key(monkeypatch, (two_keys.owner[0], "wrong"))
    found = seen("storage", partial(storage.workspace, on_s3))["answer"]
    assert "access refused" in found.found
    assert "AWS_SECRET_ACCESS_KEY" in found.remedy


# --- model, Ray, Label Studio ---


def test_a_model_is_proven_by_hash_and_its_absence_has_a_remedy(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SONOLOOP_PSEUDONYM_KEY", "k" * 16)
    assert seen("model", partial(services.model, config))["champion"].remedy == "run `sonoloop init`"
    summary = run_init(config.model_copy(update={"archive": str(tmp_path)}))
    assert seen("model", partial(services.model, config))["files"].state == "ok"
    weights = Path(config.workspace, "models", summary.champion, "model.safetensors")
    weights.write_bytes(b"other" + weights.read_bytes()[5:])
    shutil.rmtree(cache_root())
    found = seen("model", partial(services.model, config))["answer"]
    assert "differs from its hash" in found.found
    assert found.remedy == "publish the model again"


def test_a_ray_that_is_not_there_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "RAY_LIMIT_S", 4)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    found = seen("ray", partial(services.ray_answers, None))
    assert found["start"].state == "problem"


@pytest.mark.ray
def test_a_ray_is_joined_with_its_token_and_refuses_another(
    ray_cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(services, "RAY_LIMIT_S", 240)
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    found = seen("ray", partial(services.ray_answers, None))
    assert "4 CPUs" in found["start"].found
    assert (found["start"].state, found["auth"].state) == ("ok", "ok")
    (tmp_path / "token").write_text("0" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert seen("ray", partial(services.ray_answers, None))["start"].state == "problem"


def test_a_clock_that_is_too_far_off_is_named_by_what_s3_refuses() -> None:
    refused = ClientError({"Error": {"Code": "RequestTimeTooSkewed"}}, "ListObjectsV2")

    def look() -> Iterator[Finding]:
        with storage_errors("s3://bucket"):
            raise refused
        yield

    assert "chrony" in seen("storage", look)["answer"].remedy


def test_a_ray_that_broke_down_is_not_taken_for_one_that_refuses_the_token() -> None:
    broken = services._ray_finding("a Ray", 1, "", "BrokenPipeError: [Errno 32] Broken pipe")
    assert "token" not in broken.found
    refused = services._ray_finding("a Ray", 1, "", "AuthenticationError: invalid token")
    assert "token" in refused.found


@pytest.mark.parametrize(
    "text", ["Label Studio answered 500; try again", "Label Studio refuses the key (401)"]
)
def test_a_label_studio_that_broke_down_is_not_taken_for_one_that_refuses_the_key(text: str) -> None:
    found = services._studio_fault(services.ServiceError(text), "look into its log")
    assert (found.what == "key", "token" in found.remedy) == ("key" in text, "key" in text)


@pytest.mark.labelstudio
def test_a_wrong_key_of_label_studio_is_found_and_the_right_one_accepted(
    stack_labelstudio: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(
        workspace="w", archive="a", labelstudio={"url": stack_labelstudio.url, "project": "Nobody's"}
    )
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", stack_labelstudio.api_key)
    found = seen("label studio", partial(services.label_studio, config))
    assert {one.state for one in found.values()} == {"ok"}, found
    assert {"version", "key", "project", "tokens", "database"} <= set(found)
    with services.LabelStudioDoor(config.labelstudio, services.api_key()) as door:
        page = services.configured_page(config.labelstudio)
        made = door.ensure_project("Nobody's", page)
        found = seen("label studio", partial(services.label_studio, config))
        assert found["project"].found == '"Nobody\'s" has the configured page'
        door.connection.write("PATCH", f"/api/projects/{made.id}/", {"show_collab_predictions": False})
        found = seen("label studio", partial(services.label_studio, config))
        assert (found["drafts"].state, "prelabel" in found["drafts"].remedy) == ("warning", True)
        door.connection.write("DELETE", f"/api/projects/{made.id}/")
    head, payload, _ = stack_labelstudio.api_key.split(".")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", f"{head}.{payload}.{'a' * 43}")
    found = seen("label studio", partial(services.label_studio, config))
    assert found["key"].state == "problem"
    assert "personal access token" in found["key"].remedy
    away = config.model_copy(
        update={"labelstudio": config.labelstudio.model_copy(update={"url": "http://127.0.0.1:9"})}
    )
    assert seen("label studio", partial(services.label_studio, away))["answer"].state == "problem"


def test_of_an_own_server_database_and_signing_key_are_judged_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".sonoloop" / "labelstudio").mkdir(parents=True)
    (tmp_path / ".sonoloop" / "labelstudio" / ".env").write_text("SECRET_KEY=$abc\n")
    config = Config(workspace="w", archive="a")
    (far,) = services._local_server(config)
    assert "cannot be seen from here" in far.found
    here = StackInfo(folder=tmp_path, env_file=tmp_path / "env", labelstudio_url=config.labelstudio.url)
    (tmp_path / ".sonoloop" / "stack.json").write_text(here.model_dump_json())
    found = by_what(services._local_server(config))
    assert (found["database"].state, found["SECRET_KEY"].state) == ("warning", "problem")
    assert "$abc" not in str(found)
