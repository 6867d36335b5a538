"""The champion changes under a steady load, on a real local Ray, to one that drafts; then nobody asks, and it
sleeps.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from safetensors.torch import load_file, save_file
from test_serve_metrics import scraped, value
from tests.serve.studies import phantom_study

from sonoloop.model import nano
from sonoloop.platform import registry
from sonoloop.platform.stack.ports import free_port
from sonoloop.platform.workspace import Store
from sonoloop.serve.config import ServeConfig, ServeSettings

if TYPE_CHECKING:
    from sonoloop.serve.rolling import Rolling

pytestmark = [
    pytest.mark.ray,
    # Ray's variables in its place would have to be set before Ray is imported, for all tests.
    pytest.mark.filterwarnings("ignore:The `metrics_interval_s` field:DeprecationWarning"),
]

API_KEY = "test-key-0123456789abcdef"
NAME = "untrained"
LONG = {"max_tokens": 900, "stream": True}


@dataclass
class World:
    """A served workspace, and who follows its champion."""

    url: str
    store: Store
    rolling: Rolling
    versions: list[str]
    broken: str

    def crown(self, version: str) -> None:
        known = registry.read_aliases(self.store, NAME)
        registry.set_aliases(self.store, NAME, {"champion": version}, expected=known)

    def post(self, **fields: Any) -> httpx.Response:
        with self.stream(**fields) as response:
            response.read()
            return response

    def stream(self, **fields: Any) -> Any:
        body = {"model": NAME, "messages": [{"role": "user", "content": "describe it"}], "max_tokens": 8}
        headers = {"Authorization": f"Bearer {API_KEY}"}
        return httpx.stream(
            "POST",
            f"{self.url}/v1/chat/completions",
            json=body | fields,
            headers=headers,
            timeout=120,
            trust_env=False,
        )

    def ready(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.url}/readyz", timeout=30, trust_env=False).json())


def broken(folder: Path, target: Path) -> Path:
    """The same model without some of its weights."""
    copytree(folder, target)
    (file,) = target.glob("*.safetensors")
    weights = load_file(file)
    for lost in sorted(weights)[:3]:
        del weights[lost]
    save_file(weights, file, {"format": "pt"})
    return target


@pytest.fixture(scope="module")
def world(
    ray_cluster: str, untrained_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    from sonoloop.serve import versions as on_serve
    from sonoloop.serve.rolling import Rolling
    from sonoloop.serve.running import served

    folder = tmp_path_factory.mktemp("rolling")
    (folder / "workspace").mkdir()
    store = Store(str(folder / "workspace"))
    folders = [untrained_folder, nano.folder(), broken(untrained_folder, folder / "broken")]
    *versions, failing = [registry.publish(store, each, NAME, lineage={}) for each in folders]
    registry.set_aliases(store, NAME, {"champion": versions[0]}, expected=registry.Aliases())
    config = ServeConfig(
        port=free_port(),
        min_replicas=0,
        max_ongoing=4,
        max_queued=4,
        downscale_delay_s=5,
        max_tokens=900,
    )
    settings = ServeSettings(workspace=store.uri, model=registry.ModelConfig(name=NAME), serve=config)
    with pytest.MonkeyPatch.context() as patch:
        # What takes long of itself and is not looked at here: a second try to load, and slow means of load.
        patch.setattr(on_serve, "LOAD_ATTEMPTS", 1)
        patch.setattr(on_serve, "LOOK_BACK_S", 3)
        scaling = partial(on_serve.AutoscalingConfig, metrics_interval_s=1)
        patch.setattr(on_serve, "AutoscalingConfig", scaling)
        with served(settings, versions[0], API_KEY) as url:
            yield World(url, store, Rolling(settings, versions[0]), versions, failing)


@dataclass
class Load:
    """Askers who hardly stop, half of them streaming; a little, for the model that loads beside them."""

    world: World
    over: threading.Event = field(default_factory=threading.Event)
    answered: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def __enter__(self) -> Load:
        self.askers = [threading.Thread(target=self.ask, args=(number % 2 == 0,)) for number in range(3)]
        for asker in self.askers:
            asker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for asker in self.askers:
            asker.join()

    def ask(self, stream: bool) -> None:
        while not self.over.wait(0.1):
            try:
                response = self.world.post(stream=stream)
            except httpx.HTTPError as err:
                self.failed.append(type(err).__name__)
                continue
            if response.status_code != 200 or (stream and not response.text.endswith("[DONE]\n\n")):
                self.failed.append(response.text)
                continue
            first = response.text.split("\n")[0].removeprefix("data: ") if stream else response.text
            self.answered[json.loads(first)["model"]] += 1


def model_of(line: str) -> str:
    return str(json.loads(line.removeprefix("data: "))["model"])


def test_no_request_fails_while_the_champion_changes_there_and_back_again(world: World) -> None:
    first, second = world.versions
    with Load(world) as load:
        with world.stream(**LONG) as stream:
            lines = stream.iter_lines()
            assert model_of(next(lines)) == first
            world.crown(second)
            assert world.rolling.look() == second
            assert world.post().json()["model"] == second
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert {model_of(line) for line in rest[:-1]} == {first}
        for version in (first, second):  # a rollback, and forward again
            world.crown(version)
            assert world.rolling.look() == version
            assert world.post().json()["model"] == version
            assert world.ready() == {"status": "ready", "model": version, "replicas": 1}
        assert world.rolling.look() is None
    assert load.failed == []
    assert set(load.answered) == {first, second}


def test_a_report_streams_from_a_replica_to_the_asker(world: World) -> None:
    first, second = world.versions
    names = []
    with httpx.stream(
        "POST",
        f"{world.url}/v1/drafts?stream=true",
        files=[("files", ("x", data)) for data in phantom_study()],
        headers={"Authorization": f"Bearer {API_KEY}"},
        timeout=120,
        trust_env=False,
    ) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
            elif line.startswith("data: "):
                last = json.loads(line.removeprefix("data: "))
    assert (names[0], names[-2:]) == ("frames", ["entities", "done"])
    assert names.count("report") > 5
    assert last["model"] == second
    assert last["findings"]
    assert sum(last["expert_counts"][0]) > 0
    world.crown(first)
    assert world.rolling.look() == first


def test_a_champion_that_does_not_load_leaves_the_old_one_at_work_and_is_told(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    serving = world.post().json()["model"]
    world.crown(world.broken)
    with Load(world) as load:
        assert world.rolling.look() is None
    assert load.failed == []
    assert set(load.answered) == {serving}
    assert f"{world.broken} could not be served" in caplog.text
    assert _until(world.ready, lambda told: "champion_not_served" in told) == {
        "status": "ready",
        "model": serving,
        "replicas": 1,
        "champion_not_served": world.broken,
    }
    counted = "ray_sonoloop_serve_failed_changes_total"
    assert value(scraped(f"{counted}{{.*{world.broken}"), counted, model_version=world.broken) == 1
    world.crown(serving)
    assert world.rolling.look() is None
    assert "champion_not_served" not in _until(world.ready, lambda told: "champion_not_served" not in told)


def test_what_was_replaced_is_taken_away_when_it_has_nothing_left_to_do(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sonoloop.serve import rolling, versions

    monkeypatch.setattr(rolling, "SETTLE_S", 0.0)
    world.rolling.look()
    assert list(versions.applications()) == [world.ready()["model"]]


def test_a_full_line_refuses_and_askers_who_hang_up_leave_it(world: World) -> None:
    refusals: list[int] = []
    hang_up = threading.Event()

    def ask() -> None:
        with world.stream(**LONG) as response:
            if response.status_code == 429:
                refusals.append(int(response.headers["retry-after"]))
            hang_up.wait(60)

    askers = [threading.Thread(target=ask) for _ in range(12)]  # there are 4 + 4 places
    for asker in askers:
        asker.start()
    _until(lambda: len(refusals), lambda num: num >= 3)
    hang_up.set()
    for asker in askers:
        asker.join()
    assert all(1 <= wait_s <= 60 for wait_s in refusals)
    assert _until(world.post, lambda response: response.status_code == 200).json()["usage"]


def test_when_nobody_asks_no_replica_is_left_and_the_first_asker_wakes_one(world: World) -> None:
    model = world.ready()["model"]
    asleep = _until(world.ready, lambda told: told["replicas"] == 0)
    assert asleep == {"status": "ready", "model": model, "replicas": 0}
    answer = world.post()
    assert (answer.status_code, answer.json()["model"]) == (200, model)


def _until(ask: Callable[[], Any], is_so: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + 300
    while not is_so(found := ask()):
        assert time.monotonic() < deadline, f"still {found}"
        time.sleep(0.1)
    return found
