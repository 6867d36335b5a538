"""A snapshot of last month can be made again, and comes out the same or is refused."""

from __future__ import annotations

from datetime import timedelta

import pytest
from said import give_tasks
from tests.jobs.test_snapshot import FEW, PATIENTS, START, case, mark, on_side, pull, review
from tests.jobs.test_snapshot import workspace as workspace  # a fixture

from sonoloop.jobs.freezing.again import recreate_snapshot
from sonoloop.jobs.snapshot import Snapshot, freeze_snapshot, read_manifest, read_rows
from sonoloop.platform.errors import ConfigError, CountError
from sonoloop.platform.records import CaseRecord, ReviewRecord
from sonoloop.platform.workspace import Store


@pytest.fixture
def frozen(workspace: Store) -> Snapshot:
    """Of readings by two, gold, a dispute and near-duplicates; the second of two."""
    train, test = on_side("train"), on_side("held-out")
    origins = {"findings": "prediction-changed", "organ": "prediction"}
    pull(workspace, "0", *(review(name) for name in train[:10]))
    freeze_snapshot(workspace, FEW, test_share=0.3)
    give_tasks(workspace, "gold", train[12])
    pull(
        workspace,
        "1",
        *(review(name, hour=1, origins=origins) for name in (*train[4:], *test)),
        *(review(name, hour=2, annotation_id=2, reader="s") for name in (train[0], train[12])),
        review(train[1], hour=2, entities=None, annotation_id=2, reader="t"),
    )
    mark(workspace, (train[14], test[0]))
    return freeze_snapshot(workspace, FEW, test_share=0.3)


def test_a_snapshot_is_made_again_whatever_happened_since(workspace: Store, frozen: Snapshot) -> None:
    rows = read_rows(workspace, frozen.name)
    assert len({row.weight for row in rows}) > 2
    assert (frozen.num_gold, frozen.left_out["straddling"]) == (1, 2)
    train = on_side("train")
    pull(workspace, "2", *(review(name, hour=3, findings="changed") for name in train))
    # pulled late, though said before the snapshot was frozen
    pull(workspace, "3", review("c39", hour=0, annotation_id=9, reader="late"))
    give_tasks(workspace, "gold", train[20], at=START + timedelta(days=20_000))
    mark(workspace, (train[4], on_side("held-out")[3]))
    moved = case(train[6], PATIENTS[19]).model_copy(update={"indexed_at": START.replace(hour=5)})
    workspace.write_table(CaseRecord.table([moved]), "cases", "1.parquet")
    other = freeze_snapshot(workspace, FEW, test_share=0.6)
    assert other.name != frozen.name
    made = recreate_snapshot(workspace, frozen.name)
    assert made.name == frozen.name
    assert list(made.rows) == rows
    assert dict(made.left_out) == frozen.left_out


def test_frozen_again_it_keeps_its_moment(workspace: Store, frozen: Snapshot) -> None:
    assert freeze_snapshot(workspace, FEW, test_share=0.3) == frozen
    assert read_manifest(workspace, frozen.name) == frozen


def test_a_review_that_was_changed_or_lost_since_is_told(workspace: Store, frozen: Snapshot) -> None:
    path = workspace.path("reviews", "1.parquet")
    table = workspace.read_table(ReviewRecord.ARROW, path)
    rows = [ReviewRecord.from_row(row) for row in table.to_pylist()]
    origins = {"findings": "prediction"}
    pull(workspace, "1", *(row.model_copy(update={"origins": origins}) for row in rows[:3]), *rows[3:])
    with pytest.raises(CountError, match=rf"snapshot {frozen.name}, made again .* comes out as"):
        recreate_snapshot(workspace, frozen.name)
    pull(workspace, "1", *rows[2:])
    with pytest.raises(CountError, match=rf"2 of the \d+ review rows that snapshot {frozen.name}"):
        recreate_snapshot(workspace, frozen.name)


def test_a_snapshot_that_is_not_there_or_says_too_little_is_a_config_error(
    workspace: Store, frozen: Snapshot
) -> None:
    with pytest.raises(ConfigError, match="no snapshot other"):
        recreate_snapshot(workspace, "other")
    workspace.write_bytes(b'{"name": "x", "num_train": 3}', "training", frozen.name, "snapshot.json")
    with pytest.raises(ConfigError, match="another version"):
        recreate_snapshot(workspace, frozen.name)
