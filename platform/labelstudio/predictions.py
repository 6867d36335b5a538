"""From a draft to a Label Studio task and prediction, checked against the page before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import NotRequired, TypedDict

from label_studio_sdk.label_interface import LabelInterface

from sonoloop.platform.labelstudio.page import ORGAN, build_page, control_name
from sonoloop.platform.labelstudio.regions import PageContent, Region, regions_of
from sonoloop.platform.lexicon import Organ
from sonoloop.platform.records import CaseRecord, DraftRecord

UNKNOWN = "not known"


class TaskData(TypedDict):
    """A task's ``data``: what the page shows beside the form. It holds no identifier but the case's.

    Tasks made before there were ``marks`` lack them; the page then shows none.
    """

    case_id: str
    images: list[str]
    organ_hint: str
    scanner: str
    marks: NotRequired[dict[str, str]]


class Prediction(TypedDict):
    """A prediction as the import takes it."""

    model_version: str
    score: float | None
    result: list[Region]


def task_data(case: CaseRecord, workspace_uri: str, *, marks: Mapping[str, str] | None = None) -> TaskData:
    """The task of a case.

    Args:
        case: The case; its images keep their order, which boxes count on.
        workspace_uri: ``s3://bucket/prefix`` under which the image keys lie.
        marks: What `marks_of` gives for the draft that the page shows; none without a draft.
    """
    return {
        "case_id": case.case_id,
        "images": [f"{workspace_uri.rstrip('/')}/{image.image_key}" for image in case.images],
        "organ_hint": case.organ_hint or UNKNOWN,
        "scanner": case.scanner or UNKNOWN,
        "marks": dict(marks or {}),
    }


def marks_of(draft: DraftRecord, probabilities: Mapping[str, float], *, below: float) -> dict[str, str]:
    """The marks of the drafted values that are not to be relied on, such as ``? 52%``.

    Args:
        draft: A draft, no rejection.
        probabilities: Entity field to the probability of the drafted value, 0..1, calibrated where possible;
            a field without one (its value was the only one possible) gets no mark.
        below: A value is marked where its probability is lower, 0..1.

    Returns:
        Control to mark, the fields that need none left out.
    """
    entities = draft.parsed_entities()
    return {
        control_name(entities.organ, name): f"? {probabilities[name]:.0%}"
        for name in entities.flat()
        if name in probabilities and probabilities[name] < below
    }


def version_name(model_version: str, prompt_version: str) -> str:
    """A prediction's ``model_version``: ``<name>/<version>@<prompt version>``."""
    return f"{model_version}@{prompt_version}"


def model_version_of(name: str) -> str:
    """Inverse of `version_name`, without the prompt; other names come back whole."""
    return name.rpartition("@")[0] or name


@lru_cache(maxsize=32)
def _interface(page: str) -> LabelInterface:
    return LabelInterface(page)


@lru_cache(maxsize=8192)
def _known_fits(page: str, told: str) -> bool:
    names = ("from_name", "to_name", "type", "value")
    return bool(_interface(page).validate_region(dict(zip(names, json.loads(told), strict=True))))


def _fits(region: Region, page: str) -> bool:
    if region["type"] in ("choices", "number"):  # few values, met again and again
        told = [region["from_name"], region["to_name"], region["type"], region["value"]]
        return _known_fits(page, json.dumps(told))
    return bool(_interface(page).validate_region(region))


def _check(prediction: Prediction, organ: Organ, case_id: str, page: str) -> None:
    """What `LabelInterface.validate_prediction` checks, each choice and number once only."""
    # Only names leave here: Label Studio's own messages quote the values.
    wrong = {region["from_name"] for region in prediction["result"] if not _fits(region, page)}
    score = prediction["score"]
    if score is not None and not 0 <= score <= 1:
        wrong.add("score")
    if ORGAN in wrong:
        raise ValueError(f"case {case_id} was drafted as {organ}, an organ that the labeling page lacks")
    if wrong:
        names = ", ".join(sorted(wrong))
        raise ValueError(f"the prediction of case {case_id} does not fit the labeling page in: {names}")


def prediction_of(draft: DraftRecord, *, score: float | None = None, page: str | None = None) -> Prediction:
    """The prediction that shows a draft, checked against the page it goes to.

    Args:
        draft: What to show.
        score: The case's confidence, 0..1; the draft's own where absent.
        page: The project's labeling configuration; the page of all organs where absent.

    Raises:
        ValueError: the record is a rejection, its organ is not on the page, or a value does not fit the page
            (names case and control).
    """
    if draft.status != "draft":
        raise ValueError(f"case {draft.case_id} was rejected; it has no prediction")
    entities = draft.parsed_entities()
    content = PageContent(
        findings=draft.findings or "",
        impression=draft.impression or "",
        entities=entities,
        boxes=draft.boxes,
    )
    prediction: Prediction = {
        "model_version": version_name(draft.model_version, draft.prompt_version),
        "score": draft.confidence if score is None else score,
        "result": regions_of(content),
    }
    _check(prediction, entities.organ, draft.case_id, page or build_page())
    return prediction
