"""The study's reader: a simulation that corrects drafts from the phantoms' truth, now and then wrongly.

It is the demo's scripted reader without a server. A draft becomes the prediction that `sonoloop push` would
send, the corrected page becomes the annotation that Label Studio would have saved, and the review is what
`sonoloop pull` makes of it: origins, boxes and texts go the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sonoloop.jobs.demo.comparison import drafts_of
from sonoloop.jobs.demo.reader import SECONDS_PER_CASE, SECONDS_PER_EDIT, correct
from sonoloop.model.metrics import Described
from sonoloop.model.prompts import PROMPT_VERSION
from sonoloop.platform.identity import pseudonym_key
from sonoloop.platform.labelstudio.annotations import review_of
from sonoloop.platform.labelstudio.answers import SeenTask
from sonoloop.platform.labelstudio.predictions import prediction_of, task_data
from sonoloop.platform.labelstudio.regions import corrected_regions
from sonoloop.platform.records import CaseRecord, DraftRecord, ReviewRecord, content_id
from sonoloop.platform.tables import read_cases, read_drafts
from sonoloop.platform.workspace import Store

FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
"""Of round 0; a round is a day, so that the same study writes the same reviews."""
_READER = 1


def read_cases_of_round(
    workspace: Store, version: str, case_ids: Iterable[str], truth: Mapping[str, Described], number: int
) -> list[ReviewRecord]:
    """Correct a version's drafts of some cases and append the reviews; the same again changes nothing.

    Args:
        workspace: Holds cases and drafts.
        version: Of the model whose drafts the reader sees.
        case_ids: Cases with a draft.
        truth: By case id.
        number: Of the round, from 0.
    """
    wanted = list(case_ids)
    cases = {case.case_id: case for case in read_cases(workspace)}
    rows = read_drafts(workspace, model_version=version, prompt_version=PROMPT_VERSION)
    drafts = {row.case_id: row for row in rows}
    seen = dict(zip(wanted, drafts_of(workspace, version, wanted), strict=True))
    reviews = []
    for case_id in wanted:
        draft = seen[case_id]
        assert draft is not None, "only drafted cases are chosen"
        reviews.append(_read(cases[case_id], drafts[case_id], draft, truth[case_id], number))
    workspace.write_table(ReviewRecord.table(reviews), "reviews", f"round-{number:03d}.parquet")
    return reviews


def num_edited(review: ReviewRecord) -> int:
    """Fields that the reader changed or filled in."""
    return sum(origin in ("prediction-changed", "manual") for origin in review.origins.values())


def _read(
    case: CaseRecord, row: DraftRecord, draft: Described, truth: Described, number: int
) -> ReviewRecord:
    prediction = prediction_of(row)
    content = correct(draft, truth, seed=f"reader-{case.case_id}")
    regions = corrected_regions(content, prediction["result"])
    num_edits = sum(region.get("origin") != "prediction" for region in regions)
    place = int(content_id(case.case_id, length=12), 16)
    at = FIRST_DAY + timedelta(days=number)
    seen: dict[str, Any] = {
        "id": place,
        "data": task_data(case, "s3://study"),
        "updated_at": at,
        "predictions": [{"id": place, **prediction}],
        "annotations": [
            {
                "id": place,
                "completed_by": _READER,
                "parent_prediction": place,
                "lead_time": SECONDS_PER_CASE + SECONDS_PER_EDIT * num_edits,
                "created_at": at,
                "updated_at": at,
                "result": regions,
            }
        ],
    }
    task = SeenTask.model_validate(seen)
    problems: Counter[str] = Counter()
    review = review_of(task.annotations[0], task, pseudonym_key(), problems)
    assert not problems, f"case {case.case_id}: a page of ours cannot be read back: {dict(problems)}"
    return review
