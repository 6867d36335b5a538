"""Where disagreements are settled: a project beside the readers' one, in which each case is shown once more
with what its readers said, one prediction for each reader.
"""

from __future__ import annotations

from sonoloop.platform.labelstudio.predictions import Prediction, prediction_of
from sonoloop.platform.records import DraftRecord, ReviewRecord, content_id

MAX_TITLE = 50
"""Characters of a project title in Label Studio 1.23."""
_SUFFIX = " – adjudication"


def adjudication_title(project: str) -> str:
    """The title of the project that settles another one's disagreements; a long one is cut and marked."""
    room = MAX_TITLE - len(_SUFFIX)
    if len(project) <= room:
        return project + _SUFFIX
    mark = f"… {content_id(project, length=4)}"
    return project[: room - len(mark)] + mark + _SUFFIX


def reader_prediction(review: ReviewRecord, page: str) -> Prediction:
    """A review, shown as a draft is; its version is ``reader <pseudonym>``.

    Args:
        review: An answer with entities.
        page: The labeling configuration of the project that it goes to.

    Raises:
        ValueError: the review has no entities, or a value does not fit the page (names case and control).
    """
    if review.entities is None:
        raise ValueError(f"review {review.review_id} of case {review.case_id} has no entities to show")
    shown = DraftRecord(
        case_id=review.case_id,
        run_id=review.review_id,
        model_version="",
        prompt_version="",
        config_hash="",
        status="draft",
        findings=review.findings,
        impression=review.impression,
        entities=review.entities,
        boxes=review.boxes,
    )
    return {**prediction_of(shown, page=page), "model_version": f"reader {review.reader}"}
