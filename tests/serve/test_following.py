"""Who follows the champion outlives what it does not understand, without Ray: Serve is told by the tests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve
from ray.exceptions import ActorDiedError
from ray.serve.schema import ApplicationStatus

from sonoloop.platform import registry
from sonoloop.platform.errors import ServiceError
from sonoloop.platform.workspace import Store
from sonoloop.serve import deployed, replica_logs, rolling, versions, wire
from sonoloop.serve.config import ServeConfig, ServeSettings, StudiesConfig
from sonoloop.serve.rolling import Rolling

NAME, OLD, SERVING = "line", "line/1", "line/2"


@pytest.fixture
def settings(tmp_path: Path) -> ServeSettings:
    config = ServeConfig(timeout_s=30, body_timeout_s=5, studies=StudiesConfig(timeout_s=500))
    return ServeSettings(workspace=str(tmp_path), model=registry.ModelConfig(name=NAME), serve=config)


@pytest.fixture
def store(settings: ServeSettings) -> Store:
    store = Store(settings.workspace)
    registry.set_aliases(store, NAME, {"champion": SERVING}, expected=registry.Aliases())
    return store


class Serving:
    """Two versions on Serve, a door that has requests with some of them, and a clock."""

    def __init__(self) -> None:
        self.there, self.busy, self.now = [OLD, SERVING], dict[str, int](), 0.0
        self.switch = SimpleNamespace(
            remote=lambda *_: SimpleNamespace(result=lambda timeout_s: self.busy)  # noqa: ARG005
        )


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Serving:
    serving = Serving()
    monkeypatch.setattr(serve, "get_app_handle", lambda _name: serving)
    monkeypatch.setattr(versions, "applications", lambda: dict.fromkeys(serving.there))
    monkeypatch.setattr(versions, "remove_version", serving.there.remove)
    monkeypatch.setattr(rolling, "time", SimpleNamespace(monotonic=lambda: serving.now))
    return serving


def test_aliases_of_another_version_of_sonoloop_leave_what_serves_at_work(
    settings: ServeSettings, store: Store, serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    follower = Rolling(settings, SERVING)
    store.write_bytes(b'{"champion": "line/3", "shadow": null}', "models", NAME, "aliases.json")
    assert follower.look() is None
    assert f"{SERVING} goes on serving" in caplog.text
    assert "aliases.json" in caplog.text


def test_what_a_lost_follower_left_is_taken_away_when_it_has_nothing_left_to_do(
    settings: ServeSettings, store: Store, serving: Serving
) -> None:
    follower = Rolling(settings, SERVING)
    follower.look()
    assert serving.there == [OLD, SERVING]  # a request may have been read before
    serving.now += rolling.SETTLE_S + 1
    follower.look()
    assert serving.there == [SERVING]


def test_a_version_that_writes_a_study_stays_as_long_as_a_study_may_take(
    settings: ServeSettings, store: Store, serving: Serving
) -> None:
    serving.busy = {OLD: 1}
    follower = Rolling(settings, SERVING)
    follower.look()
    serving.now += rolling.SETTLE_S + 499
    follower.look()
    assert serving.there == [OLD, SERVING]
    serving.now += 2
    follower.look()
    assert serving.there == [SERVING]


def test_ray_ends_no_study_before_its_time(settings: ServeSettings) -> None:
    assert wire.http_options(settings.serve)["request_timeout_s"] == 5 + 500 + 10
    application = versions._application(settings, SERVING, 1)
    assert application._bound_deployment._deployment_config.graceful_shutdown_timeout_s == 500
    assert ServeConfig(timeout_s=300).longest_answer_s == 300


@pytest.fixture
def keeper(
    settings: ServeSettings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Any], deployed.Keeper]:
    """Makes one that follows in a way of the test's."""
    monkeypatch.setattr(versions, "applications", dict)
    monkeypatch.setattr(versions, "start_version", lambda *_, **__: None)
    monkeypatch.setattr(replica_logs, "set_up", lambda _config: None)

    def make(follow: Any) -> deployed.Keeper:
        monkeypatch.setattr(deployed, "_follow", follow)
        return deployed.Keeper(settings)

    return make


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_keeper_that_follows_no_longer_is_unhealthy(keeper: Callable[[Any], deployed.Keeper]) -> None:
    may_fail = threading.Event()

    def follow(*_: Any) -> None:
        may_fail.wait()
        raise KeyError("unforeseen")

    one = keeper(follow)
    one.check_health()
    may_fail.set()
    one._following.join(120)
    with pytest.raises(ServiceError, match="nobody follows"):
        one.check_health()


@pytest.mark.parametrize(
    ("up", "first", "started"),
    [((), SERVING, [SERVING]), ((OLD,), OLD, []), ((SERVING, OLD), SERVING, [])],
)
def test_a_keeper_begins_with_what_serves_even_where_the_champion_would_not_load(
    keeper: Callable[[Any], deployed.Keeper],
    monkeypatch: pytest.MonkeyPatch,
    up: tuple[str, ...],
    first: str,
    started: list[str],
) -> None:
    running = SimpleNamespace(status=ApplicationStatus.RUNNING)
    begun, followed = list[str](), list[str]()
    monkeypatch.setattr(versions, "applications", lambda: dict.fromkeys(up, running))
    monkeypatch.setattr(versions, "start_version", lambda _settings, version, **_: begun.append(version))
    keeper(lambda _settings, version: followed.append(version))._following.join(120)
    assert (followed, begun) == ([first], started)


def test_a_keeper_waits_for_the_door_where_serve_does_not_tell_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter(
        [
            ActorDiedError(),
            SimpleNamespace(applications={}),
            SimpleNamespace(applications={"sonoloop": SimpleNamespace(status=ApplicationStatus.RUNNING)}),
        ]
    )

    def status() -> Any:
        if isinstance(answer := next(told), Exception):
            raise answer
        return answer

    monkeypatch.setattr(serve, "status", status)
    assert [deployed._is_door_open() for _ in range(3)] == [False, False, True]
