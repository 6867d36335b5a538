"""Records and their tables: nothing is lost on the way through Parquet."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sonoloop.platform.archive.rows import FrameRecord, InstanceRecord, MaskedBox
from sonoloop.platform.errors import Reason, StorageError
from sonoloop.platform.lexicon import LesionBox
from sonoloop.platform.records import (
    CaseImage,
    CaseRecord,
    DraftRecord,
    Record,
    ReviewRecord,
    content_id,
)
from sonoloop.platform.workspace import Store

NOW = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
IMAGE = CaseImage(image_key="images/ab/abc.png", instance_id="i", frame_index=3, width=4, height=5)
BOX = LesionBox(image_index=0, x=0.1, y=0.2, width=0.3, height=0.4)
ENTITIES = '{"organ":"liver","parenchyma":"normal","lesion":"absent"}'
INSTANCE = InstanceRecord(
    instance_id="i", uri="u", etag="e", size_bytes=2**40, status="indexed", indexed_at=NOW
)
REJECTED = InstanceRecord(
    instance_id="j",
    uri="v",
    etag="e",
    size_bytes=0,
    status="rejected",
    reason=Reason.EMPTY_OBJECT,
    detail="0 bytes",
    retryable=False,
    indexed_at=NOW,
)
FRAME = FrameRecord(
    instance_id="i",
    case_id="c",
    frame_index=3,
    status="written",
    image_key="images/ab/abc.png",
    width=4,
    height=5,
    masks=(MaskedBox(left=0, top=1, right=2, bottom=3, why="outside"),),
    texts_found=2,
    texts_kept=1,
    rules_version="1",
    prepared_at=NOW,
)
CASE = CaseRecord(
    case_id="c", patient_key="p", organ_hint=None, scanner="s", images=(IMAGE, IMAGE), indexed_at=NOW
)
DRAFT = DraftRecord(
    case_id="c",
    run_id="r",
    model_version="m/1",
    prompt_version="p",
    config_hash="h",
    status="draft",
    findings="f",
    impression="i",
    entities=ENTITIES,
    boxes=(BOX,),
    confidence=0.5,
    value_probabilities={"parenchyma": 0.25, "lesion": 1.0},
    report_score=0.75,
)
REVIEW = ReviewRecord(
    review_id="r",
    annotation_id=1,
    task_id=2,
    case_id="c",
    model_version=None,
    reader="x",
    findings="f",
    impression="i",
    entities=ENTITIES,
    boxes=(BOX,),
    origins={"findings": "manual", "lesion": "prediction"},
    lead_time_s=None,
    created_at=NOW,
    updated_at=NOW,
)


@pytest.mark.parametrize(
    "record", [INSTANCE, REJECTED, FRAME, CASE, DRAFT, REVIEW], ids=lambda r: type(r).__name__
)
def test_a_record_comes_back_from_parquet_as_it_was(record: Record, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_table(type(record).table([record, record]), "t", "a.parquet")
    rows = store.read_tables(record.ARROW, "t").to_pylist()
    assert [type(record).from_row(row) for row in rows] == [record, record]


@pytest.mark.parametrize("kind", [InstanceRecord, FrameRecord, CaseRecord, DraftRecord, ReviewRecord])
def test_columns_and_fields_are_the_same_and_an_empty_table_has_them_too(kind: type[Record]) -> None:
    assert sorted(kind.ARROW.names) == sorted(kind.model_fields)
    assert kind.table([]).schema == kind.ARROW


@pytest.mark.parametrize(
    "change", [{"surprise": 1}, {"status": "maybe"}, {"organ_hint": "spleen"}, {"reason": "because"}]
)
def test_a_row_that_is_not_of_the_table_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        InstanceRecord.from_row({**INSTANCE.row(), **change})


def test_a_draft_table_from_before_value_probabilities_still_reads(tmp_path: Path) -> None:
    store, older = Store(str(tmp_path)), DraftRecord.table([DRAFT])
    store.write_table(older.drop_columns(["value_probabilities", "report_score"]), "t", "a.parquet")
    store.write_table(DraftRecord.table([DRAFT]), "t", "b.parquet")
    rows = store.read_tables(DraftRecord.ARROW, "t").to_pylist()
    without = DRAFT.model_copy(update={"value_probabilities": {}, "report_score": None})
    assert [DraftRecord.from_row(row) for row in rows] == [without, DRAFT]


def test_a_table_that_lacks_any_other_column_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_table(DraftRecord.table([DRAFT]).drop_columns(["confidence"]), "t", "a.parquet")
    with pytest.raises(StorageError, match="not a table of this version"):
        store.read_tables(DraftRecord.ARROW, "t")


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan"), None])
def test_a_value_has_a_probability_or_none_is_told(probability: float | None) -> None:
    with pytest.raises(ValidationError):
        DraftRecord.from_row({**DRAFT.row(), "value_probabilities": {"lesion": probability}})


def test_records_do_not_change() -> None:
    with pytest.raises(ValidationError):
        CASE.case_id = "other"


def test_entities_of_a_draft_and_a_review_are_lexicon_models() -> None:
    assert DRAFT.parsed_entities().lesion == "absent"
    assert REVIEW.model_copy(update={"entities": None}).parsed_entities() is None


def test_content_ids_tell_parts_apart_and_stay_the_same() -> None:
    assert content_id("ab", "c") != content_id("a", "bc")
    assert content_id("ab") == content_id(b"ab")
    assert content_id("x", length=12) == content_id("x")[:12]
    assert content_id("sonoloop", "1") == "a5b6703adfbb2ea85d10434c", "ids of stored tables must not move"
