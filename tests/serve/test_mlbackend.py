"""A real Label Studio asks a real ``sonoloop serve`` with the built-in model for drafts."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import SecretStr
from tests.conftest import outside_ray

from sonoloop.model import nano
from sonoloop.model.prompts import PROMPT_VERSION
from sonoloop.platform import registry
from sonoloop.platform.archive.deidentify.png import encode_png
from sonoloop.platform.errors import ServiceError
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.config import LabelStudioConfig
from sonoloop.platform.labelstudio.page import build_page
from sonoloop.platform.labelstudio.predictions import TaskData
from sonoloop.platform.labelstudio.upload import CaseUpload, upload
from sonoloop.platform.phantoms.case import draw_case
from sonoloop.platform.phantoms.render import render
from sonoloop.platform.registry import Aliases
from sonoloop.platform.stack.ports import free_port
from sonoloop.platform.watch_hint import hinted_at
from sonoloop.platform.workspace import S3Config, Store

if TYPE_CHECKING:
    from tests.conftest import LabelStudioStack, S3Stack

pytestmark = [pytest.mark.ray, pytest.mark.labelstudio]

SERVE_KEY = "test-key-0123456789abcdef"
BUDGET_S = 6.0
NUM_SELECTED = 80
"""At 0.5 to 13 drafts a second some, and not all, are there within the budget; 2 cores make 2 to 7."""


@pytest.fixture(scope="module")
def world(
    stack_s3: S3Stack, stack_labelstudio: LabelStudioStack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """The service, connected to a project whose tasks have no draft."""
    folder = tmp_path_factory.mktemp("serve")
    bucket = stack_s3.bucket()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stack_labelstudio.env.items():
            patch.setenv(name, value)
        workspace = Store(f"s3://{bucket}/ws", S3Config(endpoint_url=stack_s3.endpoint))
        version = registry.publish(workspace, nano.folder(), "echovlm-nano", lineage={})
        registry.set_aliases(workspace, "echovlm-nano", {"champion": version}, expected=Aliases())
        config = LabelStudioConfig(url=stack_labelstudio.url, project=f"ML {bucket}")
        with LabelStudioDoor(config, SecretStr(stack_labelstudio.api_key)) as door:
            project = door.ensure_project(config.project, build_page())
            cases = _tasks(workspace, NUM_SELECTED + 4)
            upload(door, project.id, [CaseUpload(data) for data in cases])
            with _served(folder, workspace, config) as url:
                shown = f"{version}@{PROMPT_VERSION}"
                yield SimpleNamespace(
                    door=door, project=project.id, url=url, version=shown, workspace=workspace, cases=cases
                )


def _tasks(workspace: Store, num_cases: int) -> list[TaskData]:
    """Tasks over four pictures."""
    pictures = [render(draw_case(5, number, "breast", "A")).pixels for number in range(4)]
    keys = []
    for picture in pictures:
        key, data = encode_png(picture)
        workspace.write_bytes(data, key)
        keys.append(key)
    return [
        {
            "case_id": f"case-{number:03}",
            "images": [f"{workspace.uri}/{keys[number % 4]}"],
            "organ_hint": "breast",
            "scanner": "Phantom",
        }
        for number in range(num_cases)
    ]


class _served:  # noqa: N801 - reads as the function that it would be
    """The command, until the block ends; gives its address."""

    def __init__(self, folder: Path, workspace: Store, labelstudio: LabelStudioConfig) -> None:
        self._port = free_port()
        file = folder / "sonoloop.toml"
        file.write_text(
            f'workspace = "{workspace.uri}"\narchive = "unused"\n'
            f'[s3]\nendpoint_url = "{workspace.s3.endpoint_url}"\n'
            f'[labelstudio]\nurl = "{labelstudio.url}"\nproject = "{labelstudio.project}"\n'
            f"[serve.drafts]\nbudget_s = {BUDGET_S}\ntasks_per_chunk = 3\n"
            '[serve.engine]\ndevice = "cpu"\n'
        )
        command = [
            sys.executable,
            "-m",
            "sonoloop.jobs.cli",
            "serve",
            "-c",
            str(file),
            "--port",
            str(self._port),
        ]
        self._log = (folder / "serve.log").open("w+")
        own = {"SONOLOOP_API_KEY": SERVE_KEY, "SONOLOOP_CACHE_DIR": str(folder / "cache")}
        self._process = subprocess.Popen(
            command, env=outside_ray() | own, stderr=self._log, start_new_session=True, text=True
        )

    def __enter__(self) -> str:
        url = f"http://127.0.0.1:{self._port}"
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if httpx.get(f"{url}/healthz", timeout=2, trust_env=False).status_code == 200:
                    return url
            except httpx.HTTPError:
                time.sleep(0.2)
        self.__exit__()
        pytest.fail(f"it did not come up: {Path(self._log.name).read_text()}")

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._log.close()


@pytest.fixture(scope="module")
def backend(world: Any) -> int:
    """The service as Label Studio's backend; its id there."""
    body = {
        "project": world.project,
        "url": world.url,
        "title": world.version,
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": "sonoloop",
        "basic_auth_pass": SERVE_KEY,
        "is_interactive": True,
    }
    return int(world.door.connection.write("POST", "/api/ml/", body)["id"])


def _ids(world: Any) -> dict[str, int]:
    return {str(task.data.case_id): task.id for task in world.door.all_tasks(world.project)}


def _predictions(world: Any, task_id: int) -> list[dict[str, Any]]:
    found = world.door.connection.get("/api/predictions/", task=task_id)
    return [dict(item) for item in found]


def test_a_wrong_password_is_told_to_whoever_connects(world: Any) -> None:
    body = {
        "project": world.project,
        "url": world.url,
        "title": "x",
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": "sonoloop",
        "basic_auth_pass": "wrong-key-0123456789",
    }
    with pytest.raises(ServiceError, match="refuses POST /api/ml/"):
        world.door.connection.write("POST", "/api/ml/", body)


def test_label_studio_knows_the_version_that_drafts(world: Any, backend: int) -> None:
    known = world.door.connection.get(f"/api/ml/{backend}")
    assert (known["state"], known["model_version"]) == ("CO", world.version)
    assert world.door.connection.get(f"/api/ml/{backend}/versions") == {"versions": [world.version]}


def test_a_task_without_a_draft_has_one_when_it_is_opened_and_the_same_one_after(
    world: Any, backend: int
) -> None:
    task_id = _ids(world)["case-000"]
    opened = world.door.connection.get(f"/api/tasks/{task_id}/", project=world.project)
    (prediction,) = opened["predictions"]
    assert prediction["model_version"] == world.version
    assert 0 < prediction["score"] < 1
    assert {"organ", "findings"} <= {region["from_name"] for region in prediction["result"]}
    again = world.door.connection.get(f"/api/tasks/{task_id}/", project=world.project)
    assert [item["id"] for item in again["predictions"]] == [prediction["id"]]


def test_the_labeling_stream_prefills_a_task_that_had_no_draft(world: Any, backend: int) -> None:
    world.door.use_version(world.project, world.version)
    following = world.door.connection.get(f"/api/projects/{world.project}/next")
    assert [item["model_version"] for item in following["predictions"]] == [world.version]


def test_the_page_gets_a_draft_that_is_not_stored(world: Any, backend: int) -> None:
    task_id = _ids(world)["case-003"]
    body = {"task": task_id, "context": {"result": []}}
    answer = world.door.connection.write("POST", f"/api/ml/{backend}/interactive-annotating", body)
    assert answer["data"]["result"]
    assert _predictions(world, task_id) == []


def test_a_selection_beyond_the_budget_goes_on_and_every_task_ends_with_one_prediction(
    world: Any, backend: int
) -> None:
    ids = _ids(world)
    selected = [ids[f"case-{number:03}"] for number in range(4, 4 + NUM_SELECTED)]
    action = f"/api/dm/actions?id=retrieve_tasks_predictions&project={world.project}"
    body = {"selectedItems": {"all": False, "included": selected}, "project": world.project}
    world.door.connection.write("POST", action, body)
    first = _counted(world, selected)
    world.door.connection.write("POST", action, body)  # an impatient reader
    assert set(first) == {0, 1}, f"the budget did not cut the selection: {first}"
    _until(lambda: _counted(world, selected)[0] == 0)
    time.sleep(2)  # what would double comes at once
    assert _counted(world, selected) == Counter({1: NUM_SELECTED})


def _counted(world: Any, task_ids: list[int]) -> Counter[int]:
    """How many of the tasks have so many predictions."""
    tasks = world.door.all_tasks(world.project)
    return Counter(len(task.predictions) for task in tasks if task.id in task_ids)


def test_a_task_with_images_elsewhere_gets_nothing_and_spoils_nothing(world: Any, backend: int) -> None:
    foreign: TaskData = {
        "case_id": "foreign",
        "images": ["http://127.0.0.1:1/images/x.png"],
        "organ_hint": "breast",
        "scanner": "x",
    }
    upload(world.door, world.project, [CaseUpload(foreign)])
    task_id = _ids(world)["foreign"]
    opened = world.door.connection.get(f"/api/tasks/{task_id}/", project=world.project)
    assert opened["predictions"] == []


def test_a_saved_review_leaves_a_hint(world: Any, backend: int) -> None:
    world.door.create_annotation(_ids(world)["case-001"], [], parent_prediction=None)
    _until(lambda: hinted_at(world.workspace) is not None)


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.3)
