"""Keys of a workspace: shown once, kept as digests, limited, closed for ever."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sonoloop.platform.errors import ConfigError, ConflictError, StorageError
from sonoloop.platform.workspace import S3Config, Store
from sonoloop.serve.keys import PLACE, KeyRecord, Scope, add_key, key_digest, read_keys, revoke_key
from sonoloop.serve.keys_command import keys
from sonoloop.serve.rates import Bucket, Meter


@pytest.fixture
def workspace(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def test_a_key_is_kept_as_its_digest_and_nowhere_else(workspace: Store) -> None:
    record, key = add_key(workspace, "ward-3", [Scope.CHAT, Scope.DRAFTS], requests_per_minute=60)
    assert read_keys(workspace) == (record,)
    assert record.digest == key_digest(key).hex()
    assert len(key) > 43
    stored = b"".join(path.read_bytes() for path in Path(workspace.root).rglob("*") if path.is_file())
    assert key.encode() not in stored
    assert record.digest not in repr(record)


def test_two_keys_differ_and_names_are_given_once(workspace: Store) -> None:
    (first, key), (_, other) = add_key(workspace, "one", ["chat"]), add_key(workspace, "two", ["drafts"])
    assert key != other
    revoke_key(workspace, first.name)
    for taken in ("one", "two", "environment"):
        with pytest.raises(ConfigError, match="another name"):
            add_key(workspace, taken, ["chat"])


@pytest.mark.parametrize("name", ["", "Ward", "a b", "../x", "a" * 64, "-"])
def test_a_name_that_would_spoil_a_log_line_is_refused(workspace: Store, name: str) -> None:
    with pytest.raises(ConfigError, match="small letters"):
        add_key(workspace, name, [Scope.CHAT])
    assert read_keys(workspace) == ()


def test_a_key_opens_until_it_expires_or_is_revoked(workspace: Store) -> None:
    record, _ = add_key(workspace, "brief", [Scope.CHAT], valid_for=timedelta(hours=1))
    now = datetime.now(UTC)
    assert record.is_valid(now)
    assert not record.is_valid(now + timedelta(hours=1))
    revoked = revoke_key(workspace, "brief")
    assert not revoked.is_valid(now)
    assert revoke_key(workspace, "brief") == revoked
    assert read_keys(workspace) == (revoked,)


def test_of_two_who_change_the_keys_at_once_one_is_told(
    workspace: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Store.get_control

    def overtaken(store: Store, *parts: str) -> tuple[bytes, str] | None:
        monkeypatch.setattr(Store, "get_control", read)
        found = read(store, *parts)
        add_key(workspace, "quick", [Scope.CHAT])
        return found

    monkeypatch.setattr(Store, "get_control", overtaken)
    with pytest.raises(ConflictError):
        add_key(workspace, "slow", [Scope.CHAT])
    assert [record.name for record in read_keys(workspace)] == ["quick"]


def test_a_file_that_is_not_ours_is_named_and_not_quoted(workspace: Store) -> None:
    workspace.put_control(b'[{"name": "secret"}]', *PLACE, version=None)
    with pytest.raises(StorageError, match=r"keys\.json") as caught:
        read_keys(workspace)
    assert "secret" not in str(caught.value)


@pytest.fixture
def command(workspace: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    file = tmp_path / "sonoloop.toml"
    file.write_text(f'workspace = "{workspace.root}"\narchive = "unused"\n')

    def run(*what: Any, **how: Any) -> tuple[str, str]:
        keys(*what, config=str(file), **how)
        return tuple(capsys.readouterr())

    return run


def test_the_command_shows_a_key_once_and_lists_everything_else(command: Callable[..., Any]) -> None:
    out, err = command("add", "ward-3", scope=["chat", "drafts"], requests_per_minute=60, days=30)
    key = out.strip()
    assert key.startswith("slk-")
    assert "this once" in err
    listed = command("list", json=True)[0]
    (row,) = json.loads(listed)
    assert (row["name"], row["scopes"], row["state"]) == ("ward-3", ["chat", "drafts"], "valid")
    assert (row["requests_per_minute"], row["tokens_per_minute"]) == (60, None)
    assert key not in listed
    assert key_digest(key).hex() not in listed
    assert json.loads(command("revoke", "ward-3", json=True)[0])[0]["state"] == "revoked"
    table = command("list")[0]
    assert "ward-3" in table
    assert "revoked" in table


def test_the_command_names_what_it_misses(command: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="needs a name"):
        command("revoke")
    with pytest.raises(ConfigError, match="keys list"):
        command("revoke", "nobody")


class Clock:
    """Time that goes on when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_holds_a_minutes_worth_and_refills_evenly() -> None:
    clock = Clock()
    bucket = Bucket(60, clock)
    bucket.take(60)
    assert bucket.wait_s(1) == 1.0
    clock.now = 0.5
    assert bucket.wait_s(1) == 0.5
    clock.now = 1000.0
    assert bucket.level() == 60


def test_a_costly_answer_makes_the_next_request_wait_for_it() -> None:
    clock = Clock()
    meter = Meter(requests=Bucket(1000, clock), tokens=Bucket(600, clock))
    assert meter.enter() is None
    meter.spend(1200)
    assert meter.enter() == ("tokens", 60.1)
    assert meter.headers() == {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "999",
        "x-ratelimit-reset-requests": "0.060s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "120.000s",
    }
    clock.now = 60.2
    assert meter.enter() is None


def test_a_refused_request_costs_nothing() -> None:
    clock = Clock()
    meter = Meter(requests=Bucket(1, clock), tokens=None)
    assert meter.enter() is None
    assert [meter.enter() for _ in range(5)] == [("requests", 60.0)] * 5


def test_a_key_without_limits_is_never_stopped_and_told_of_none() -> None:
    record = KeyRecord(name="a", digest="0" * 64, scopes={"chat"}, created_at=datetime.now(UTC))
    meter = Meter.of(record)
    assert all(meter.enter() is None for _ in range(1000))
    assert meter.headers() == {}


def test_of_a_key_its_sha256_is_kept() -> None:
    """A key has 256 bits by lot: nobody guesses it, and one plain hash costs a request next to nothing."""
    assert key_digest("abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_keys_on_s3_are_guarded_by_a_conditional_put(stack_s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stack_s3.env.items():
        monkeypatch.setenv(name, value)
    workspace = Store(f"s3://{stack_s3.bucket()}/w", S3Config(endpoint_url=stack_s3.endpoint))
    record, _ = add_key(workspace, "ward-3", [Scope.CHAT])
    assert read_keys(workspace) == (record,)
    with pytest.raises(ConflictError):
        workspace.put_control(b"[]", *PLACE, version=None)
    assert revoke_key(workspace, "ward-3").revoked_at is not None
