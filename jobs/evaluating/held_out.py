"""The cases that no training may see: which they are, and their rows of rooms too large to be held."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from sonoloop.jobs.freezing.register import CONVERSATIONS_FILE, ROWS_FILE
from sonoloop.jobs.snapshot import ConversationRow, SnapshotRow, Split, read_snapshot
from sonoloop.platform import registry
from sonoloop.platform.duplicates import read_groups_of
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.sorted_rooms import KeyRange, Room, RoomReader, ranges_of
from sonoloop.platform.tables import read_cases_of
from sonoloop.platform.workspace import Store

HELD_OUT: tuple[Split, ...] = tuple(side for side in get_args(Split) if side != "train")
"""Sides of a snapshot that models are measured on."""
_VERSION = re.compile(r"[^/]+/[0-9a-f]{12}")
"""What the registry calls a version; a lineage ends with other words."""
_SIDES = pa.schema([SnapshotRow.ARROW.field(name) for name in ("case_id", "patient_key", "split")])
_IMPORTED = pa.schema([ConversationRow.ARROW.field(name) for name in ("group_key", "image_keys", "split")])


@dataclass(frozen=True)
class HeldOut:
    """What two or more models can be compared on.

    Attributes:
        rows: Held-out reviews of a snapshot of which no training behind the models saw patient or pictures,
            ordered by case id.
        seen: Model version to the held-out cases whose patient or pictures its training saw; they are not in
            ``rows``.
    """

    rows: tuple[SnapshotRow, ...]
    seen: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Learned:
    """What a training saw: cases, patients (groups of imported conversations too) and imported pictures."""

    cases: frozenset[str]
    patients: frozenset[str]
    pictures: frozenset[str]


def held_out(workspace: Store, snapshot: str, *model_versions: str) -> HeldOut:
    """The held-out reviews of a snapshot that are new to these models and to all that they were made from.

    Raises:
        ConfigError: no such snapshot, or as of `trained_on`.
    """
    rows = [row for side in HELD_OUT for row in read_snapshot(workspace, snapshot, side)]
    learned_by = {
        ancestor: learned
        for version in model_versions
        for ancestor, learned in trained_on(workspace, version).items()
    }
    alike = _alike(workspace, rows)
    shows = _pictures(workspace, alike) if any(one.pictures for one in learned_by.values()) else {}
    seen = {
        ancestor: frozenset(
            row.case_id
            for row in rows
            if row.patient_key in one.patients
            or not one.cases.isdisjoint(alike[row.case_id])
            or not one.pictures.isdisjoint(shows.get(row.case_id, ()))
        )
        for ancestor, one in learned_by.items()
    }
    learned = frozenset().union(*seen.values())
    new = sorted((row for row in rows if row.case_id not in learned), key=lambda row: row.case_id)
    return HeldOut(rows=tuple(new), seen=seen)


def _alike(workspace: Store, rows: Sequence[SnapshotRow]) -> dict[str, frozenset[str]]:
    """Case id to the case and its near-duplicates, as they are marked now."""
    groups = read_groups_of(workspace, [row.case_id for row in rows])
    members: dict[str, set[str]] = defaultdict(set)
    for case_id, group in groups.items():
        members[group].add(case_id)
    return {row.case_id: frozenset({row.case_id, *members[groups.get(row.case_id, "")]}) for row in rows}


def _pictures(workspace: Store, alike: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Case id to the pictures of the case and of its near-duplicates."""
    cases = read_cases_of(workspace, frozenset().union(*alike.values()))
    shown = {case_id: [image.image_key for image in case.images] for case_id, case in cases.items()}
    return {
        case_id: frozenset(key for member in members for key in shown.get(member, ()))
        for case_id, members in alike.items()
    }


def trained_on(workspace: Store, model_version: str) -> dict[str, Learned]:
    """Model version to what its training saw, of a model and of all that it was made from.

    Follows ``base`` and ``snapshot`` of each lineage until a model that was not trained here.

    Raises:
        ConfigError: a snapshot or a lineage is gone, or cannot be read: nobody can say what was seen.
    """
    found: dict[str, Learned] = {}
    version: str | None = model_version
    while version is not None and version not in found:
        lineage = lineage_of(workspace, version)
        if not lineage and _VERSION.fullmatch(version):
            raise _lost(version)
        if "snapshot" not in lineage:
            break
        found[version] = _learned(workspace, version, lineage["snapshot"])
        version = lineage.get("base")
    return found


def _learned(workspace: Store, model_version: str, snapshot: str) -> Learned:
    place = ("training", snapshot)
    conversations = _IMPORTED.empty_table()
    try:
        reviews = workspace.read_table(_SIDES, workspace.path(*place, ROWS_FILE))
        if workspace.exists(*place, CONVERSATIONS_FILE):
            conversations = workspace.read_table(_IMPORTED, workspace.path(*place, CONVERSATIONS_FILE))
    except FileNotFoundError as err:
        raise ConfigError(
            f"training/{snapshot} is gone, so nobody can say what {model_version} was trained on; restore it"
        ) from err
    return Learned(
        cases=frozenset(_of_train(reviews, "case_id")),
        patients=frozenset((*_of_train(reviews, "patient_key"), *_of_train(conversations, "group_key"))),
        pictures=frozenset().union(*_of_train(conversations, "image_keys")),
    )


def _of_train(table: pa.Table, column: str) -> list[Any]:
    """A column of the rows on the training side."""
    found: list[Any] = table.filter(pc.equal(table["split"], "train"))[column].to_pylist()
    return found


def lineage_of(workspace: Store, model_version: str) -> dict[str, Any]:
    """What the registry says of where a model version came from; empty where it says nothing.

    Raises:
        ConfigError: what it says cannot be read.
    """
    place = registry.place_of(model_version)
    try:
        found: dict[str, Any] = json.loads(workspace.read_bytes(*place, "lineage.json"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise _lost(model_version) from None
    return found


def _lost(model_version: str) -> ConfigError:
    return ConfigError(
        f"models/{model_version}/lineage.json is gone or is no JSON, so nobody can say what the model was "
        "trained on; restore it"
    )


def rows_of(
    workspace: Store,
    room: Room,
    case_ids: Collection[str],
    *,
    columns: Sequence[str] | None = None,
    where: ds.Expression | None = None,
) -> Iterator[dict[str, Any]]:
    """The rows that count of these cases, in the order of their ids, read a range of ids at a time.

    Args:
        workspace: Where the room is.
        room: A room sorted by case id.
        case_ids: Those wanted.
        columns: Only these, the key's always among them.
        where: Only rows of these versions.

    Raises:
        StorageError: the store refuses.
    """
    wanted = sorted(case_ids)
    among = ds.field(room.key).isin(wanted)
    reader = RoomReader(workspace, room, columns=columns, where=among if where is None else among & where)
    for keys in ranges_of(reader.files):
        if _holds_any(keys, wanted):
            yield from reader.read(keys).to_pylist()


def _holds_any(keys: KeyRange, wanted: Sequence[str]) -> bool:
    low = 0 if keys.low is None else bisect_left(wanted, keys.low)
    high = len(wanted) if keys.high is None else bisect_left(wanted, keys.high)
    return low < high
