"""Which result a case has, and what it is called."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.platform.export.made import BOXES, result

from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.export.results import Rejection, result_of
from sonoloop.platform.records import DraftRecord, ReviewRecord

CASE = result().case
RUN_AT = datetime(2026, 1, 2, tzinfo=UTC)
REVIEW = ReviewRecord(
    review_id="r",
    annotation_id=1,
    task_id=1,
    case_id=CASE.case_id,
    model_version="m/1",
    reader="reader",
    findings="seen by a person",
    impression="i",
    entities=None,
    boxes=(),
    origins={},
    lead_time_s=None,
    created_at=RUN_AT,
    updated_at=datetime(2026, 1, 3, tzinfo=UTC),
)
DRAFT = DraftRecord(
    case_id=CASE.case_id,
    run_id="run",
    model_version="m/1",
    prompt_version="p",
    config_hash="h",
    status="draft",
    findings="seen by a model",
    impression="i",
    entities='{"organ":"liver","parenchyma":"normal","lesion":"absent"}',
    boxes=BOXES,
)
REFUSED = DRAFT.model_copy(update={"status": "rejected", "findings": None})


def _of(review: ReviewRecord | None, draft: DraftRecord | None, *, reviewed_only: bool = False) -> object:
    found = result_of(CASE, review, draft, drafted_at={"run": RUN_AT}, reviewed_only=reviewed_only)
    return found.status, found.findings, found.reader, found.written_at


def test_a_review_counts_before_a_draft() -> None:
    assert _of(REVIEW, DRAFT) == ("reviewed", "seen by a person", "reader", REVIEW.updated_at)


def test_a_draft_is_called_one_and_nobody_stands_behind_it() -> None:
    assert _of(None, DRAFT) == ("draft", "seen by a model", None, RUN_AT)


def test_a_draft_is_refused_where_only_reviews_are_wanted() -> None:
    with pytest.raises(RejectedError) as err:
        _of(None, DRAFT, reviewed_only=True)
    assert err.value.reason == Reason.NOT_REVIEWED


@pytest.mark.parametrize("draft", [None, REFUSED])
def test_a_case_with_nothing_said_about_it_is_refused(draft: DraftRecord | None) -> None:
    with pytest.raises(RejectedError) as err:
        _of(None, draft)
    assert err.value.reason == Reason.NO_RESULT


def test_boxes_on_images_that_the_case_has_no_more_are_left_out() -> None:
    case = CASE.model_copy(update={"images": CASE.images[:1]})
    found = result_of(case, None, DRAFT, drafted_at={}, reviewed_only=False)
    assert found.boxes == BOXES[:1]


def test_the_same_content_has_the_same_id_and_other_content_another() -> None:
    assert result().content_id == result().content_id
    assert result().content_id != result(findings="x").content_id


def test_a_rejection_is_one_line_with_its_reason() -> None:
    error = RejectedError(Reason.STORAGE, "gone", retryable=True)
    line = Rejection.of("case", "c", error).model_dump_json()
    assert line == '{"unit":"case","id":"c","reason":"storage","detail":"gone","retryable":true}'
