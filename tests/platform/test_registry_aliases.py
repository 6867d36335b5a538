"""How the aliases of a line changed: kept with the change itself, told oldest first."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sonoloop.platform import registry
from sonoloop.platform.errors import ConflictError, StorageError
from sonoloop.platform.registry import Aliases
from sonoloop.platform.workspace import Store

NAME = "line"


@pytest.fixture
def workspace(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def promoted(workspace: Store, version: str, **told: str) -> Aliases:
    seen = registry.read_aliases(workspace, NAME)
    changes = {"champion": version, "previous": seen.champion, "challenger": None}
    return registry.set_aliases(workspace, NAME, changes, expected=seen, **told)  # type: ignore[arg-type]


def test_every_change_is_kept_with_who_and_why(workspace: Store) -> None:
    promoted(workspace, "line/1", by="init")
    promoted(workspace, "line/2", by="promote", reason="0.5 -> 0.6")
    promoted(workspace, "line/1", by="promote --rollback", reason="worse in the clinic")
    changes = registry.alias_changes(workspace, NAME)
    assert [(c.by, c.before.champion, c.after.champion) for c in changes] == [
        ("init", None, "line/1"),
        ("promote", "line/1", "line/2"),
        ("promote --rollback", "line/2", "line/1"),
    ]
    assert changes[1].reason == "0.5 -> 0.6"
    assert registry.read_aliases(workspace, NAME) == Aliases(champion="line/1", previous="line/2")


def test_a_version_may_be_champion_more_than_once(workspace: Store) -> None:
    for version in ("line/1", "line/2", "line/1"):
        promoted(workspace, version, by=f"to {version}")
    changes = registry.alias_changes(workspace, NAME)
    times = [change.at for change in changes]
    spans = [(s.alias, s.since, s.until) for s in registry.spans_of(changes, "line/1")]
    assert spans == [
        ("champion", times[0], times[1]),
        ("previous", times[1], times[2]),
        ("champion", times[2], None),
    ]


def test_who_was_champion_at_a_moment(workspace: Store) -> None:
    for version in ("line/1", "line/2", "line/3"):
        promoted(workspace, version)
    changes = registry.alias_changes(workspace, NAME)
    moments = [change.at for change in changes]
    before = moments[0] - timedelta(hours=1)
    assert [registry.champion_at(changes, moment) for moment in moments] == ["line/1", "line/2", "line/3"]
    assert registry.champion_at(changes, before) is None
    assert registry.champion_at(changes[1:], before) == "line/1"  # as the first change that was kept saw it
    assert registry.champion_at(changes, datetime.now(UTC)) == "line/3"
    assert registry.champion_at([], before) is None


def test_aliases_from_before_changes_were_kept_are_read_and_kept_from_then_on(workspace: Store) -> None:
    workspace.write_bytes(
        Aliases(champion="line/1").model_dump_json().encode(), "models", NAME, "aliases.json"
    )
    assert registry.alias_changes(workspace, NAME) == []
    promoted(workspace, "line/2")
    (change,) = registry.alias_changes(workspace, NAME)
    assert (change.before.champion, change.after.champion) == ("line/1", "line/2")


def test_a_writer_that_died_before_it_was_done_loses_no_change(
    workspace: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(workspace, "line/1", by="first")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "put_control", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            promoted(workspace, "line/2", by="died")
    assert [change.by for change in registry.alias_changes(workspace, NAME)] == ["first"]
    promoted(workspace, "line/3", by="third")
    assert [change.by for change in registry.alias_changes(workspace, NAME)] == ["first", "third"]


def test_of_many_who_change_at_once_one_does_and_only_its_change_is_kept(workspace: Store) -> None:
    seen = registry.set_aliases(workspace, NAME, {"champion": "line/0"}, expected=Aliases())

    def change(number: int) -> bool:
        try:
            registry.set_aliases(
                workspace, NAME, {"champion": f"line/{number}"}, expected=seen, by=str(number)
            )
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = [number for number, did in enumerate(pool.map(change, range(1, 9)), 1) if did]
    (winner,) = won
    assert registry.read_aliases(workspace, NAME).champion == f"line/{winner}"
    assert [change.by for change in registry.alias_changes(workspace, NAME)] == ["sonoloop", str(winner)]


@pytest.mark.parametrize("data", [b'{"champion": "line/1", "shadow": "line/2"}', b"{", b"[]"])
def test_aliases_of_another_version_of_sonoloop_are_not_guessed_at_and_stay(
    workspace: Store, data: bytes
) -> None:
    workspace.write_bytes(data, "models", NAME, "aliases.json")
    for read in (registry.read_aliases, registry.resolve, registry.alias_changes):
        with pytest.raises(StorageError, match=r"models/line/aliases\.json is not what this version"):
            read(workspace, NAME)
    with pytest.raises(StorageError):
        registry.set_aliases(workspace, NAME, {"champion": "line/3"}, expected=Aliases())
    assert workspace.read_bytes("models", NAME, "aliases.json") == data


def test_a_change_of_another_version_of_sonoloop_is_named(workspace: Store) -> None:
    workspace.write_bytes(b"{}", "models", NAME, "history", "20260101.json")
    with pytest.raises(StorageError, match=r"history/20260101\.json"):
        registry.alias_changes(workspace, NAME)


def test_a_mark_of_retirement_of_another_version_of_sonoloop_is_named(workspace: Store) -> None:
    workspace.write_bytes(b"{}", "models", NAME, "1", "retired.json")
    with pytest.raises(StorageError, match=r"models/line/1/retired\.json"):
        registry.read_retired(workspace, f"{NAME}/1")
