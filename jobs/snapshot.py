"""Training snapshots: the exact reviews a challenger learns from, split by patient, named by hash.

A patient's side is fixed for ever. Where near-duplicate cases belong to patients of both sides, all cases of
the group are left out, of training and of the held-out reviews that the gate looks at: on either side a
picture would stand that the other side has too. It does not matter which cases of a group are reviewed, so
that what is left out does not come back when another review arrives.

A case that its readers disagree on is left out until somebody has adjudicated it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from sonoloop.platform.duplicates import read_groups
from sonoloop.platform.errors import ConfigError, NothingToDoError
from sonoloop.platform.records import CaseRecord, ReviewRecord, content_id
from sonoloop.platform.tables import current_reviews, disputed_ids, read_cases
from sonoloop.platform.workspace import Store

Split = Literal["train", "test"]


class SnapshotRow(ReviewRecord):
    """A review, whose patient it is about, and on which side of the split it stands."""

    ARROW: ClassVar[pa.Schema] = pa.schema(
        [*ReviewRecord.ARROW, ("patient_key", pa.string()), ("split", pa.string())]
    )
    patient_key: str
    split: Split


class Snapshot(BaseModel):
    """``training/<name>/snapshot.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(description="hash of its reviews and their split")
    num_train: int
    num_test: int
    num_left_out: int = Field(
        description="reviews without valid entities, with an empty section, disputed, or straddling the sides"
    )
    num_straddling: int = Field(
        default=0, description="usable reviews left out because near-duplicates stand on both sides"
    )
    num_disputed: int = Field(default=0, description="usable reviews left out because the readers disagree")


def split_of(patient_key: str, test_share: float) -> Split:
    """The side a patient stands on, for ever: it depends on nothing but the patient.

    Args:
        patient_key: Keyed hash, hexadecimal, evenly distributed.
        test_share: Share of patients held out, 0..1.
    """
    return "test" if int(patient_key[:8], 16) / 16**8 < test_share else "train"


def straddling_cases(
    cases: Iterable[CaseRecord], groups: Mapping[str, str], test_share: float
) -> frozenset[str]:
    """Cases whose group of near-duplicates has patients on both sides.

    Args:
        cases: All cases, reviewed or not.
        groups: Case id to group key of the near-duplicates among them.
        test_share: Share of patients held out, 0..1.
    """
    members = [case for case in cases if case.case_id in groups]
    sides: dict[str, set[Split]] = defaultdict(set)
    for case in members:
        sides[groups[case.case_id]].add(split_of(case.patient_key, test_share))
    return frozenset(case.case_id for case in members if len(sides[groups[case.case_id]]) > 1)


def freeze_snapshot(workspace: Store, *, test_share: float) -> Snapshot:
    """Freeze the current reviews; the same reviews give the same snapshot.

    Raises:
        NothingToDoError: no usable review, or none on the training side.
    """
    cases = {case.case_id: case for case in read_cases(workspace)}
    reviews = [review for review in current_reviews(workspace).values() if review.case_id in cases]
    usable = [r for r in reviews if r.entities is not None and r.findings and r.impression]
    disputed = frozenset(disputed_ids(workspace))
    settled = [r for r in usable if r.case_id not in disputed]
    straddling = straddling_cases(cases.values(), read_groups(workspace), test_share)
    apart = [r for r in settled if r.case_id not in straddling]
    rows = [_row(review, cases[review.case_id], test_share) for review in apart]
    rows.sort(key=lambda row: row.case_id)
    snapshot = Snapshot(
        name=content_id(*(f"{row.review_id}:{row.split}" for row in rows), length=12),
        num_train=sum(row.split == "train" for row in rows),
        num_test=sum(row.split == "test" for row in rows),
        num_left_out=len(reviews) - len(rows),
        num_straddling=len(settled) - len(apart),
        num_disputed=len(usable) - len(settled),
    )
    if snapshot.num_train == 0:
        raise NothingToDoError(
            f"no review to learn from ({len(reviews)} pulled, {snapshot.num_left_out} left out, "
            f"{snapshot.num_test} held out); run `sonoloop pull` after people have corrected drafts"
        )
    workspace.write_table(SnapshotRow.table(rows), "training", snapshot.name, "reviews.parquet")
    workspace.write_bytes(
        snapshot.model_dump_json(indent=2).encode(), "training", snapshot.name, "snapshot.json"
    )
    return snapshot


def read_snapshot(workspace: Store, name: str, split: Split) -> list[SnapshotRow]:
    """The reviews on one side of a snapshot, ordered by case id.

    Raises:
        ConfigError: no such snapshot.
    """
    table = workspace.read_tables(SnapshotRow.ARROW, "training", name)
    if table.num_rows == 0:
        raise ConfigError(f"no snapshot {name} in {workspace.uri}; see `sonoloop status`")
    rows = [SnapshotRow.from_row(row) for row in table.to_pylist()]
    return [row for row in rows if row.split == split]


def _row(review: ReviewRecord, case: CaseRecord, test_share: float) -> SnapshotRow:
    values: dict[str, Any] = review.row()
    return SnapshotRow(**values, patient_key=case.patient_key, split=split_of(case.patient_key, test_share))
