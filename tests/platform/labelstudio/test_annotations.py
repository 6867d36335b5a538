from __future__ import annotations

import json
from collections import Counter
from typing import Any, get_args

import pytest
from pydantic import SecretStr

from sonoloop.platform.labelstudio.annotations import review_of, reviews_of
from sonoloop.platform.labelstudio.answers import SeenTask
from sonoloop.platform.labelstudio.predictions import prediction_of
from sonoloop.platform.labelstudio.regions import PageContent, corrected_regions, escape_region
from sonoloop.platform.lexicon import NOT_ASSESSED, ORGANS, LesionBox
from sonoloop.platform.records import DraftRecord, Escape, ReviewRecord

KEY = SecretStr("a key of a test, long enough")


def _task(draft: DraftRecord, result: list[Any], **annotation: Any) -> SeenTask:
    """What Label Studio would show of a task with this draft and one annotation."""
    prediction = json.loads(json.dumps(prediction_of(draft)))
    return SeenTask.model_validate(
        {
            "id": 5,
            "data": {"case_id": draft.case_id, "images": ["a", "b"]},
            "updated_at": "2026-01-02T03:04:05Z",
            "predictions": [{"id": 70, **prediction}],
            "annotations": [
                {
                    "id": 9,
                    "completed_by": {"id": 3, "email": "reader@example.org"},
                    "parent_prediction": 70,
                    "lead_time": 12.5,
                    "created_at": "2026-01-02T03:04:00Z",
                    "updated_at": "2026-01-02T03:04:05Z",
                    "result": json.loads(json.dumps(result)),
                    **annotation,
                }
            ],
        }
    )


def _review(draft: DraftRecord, result: list[Any], **annotation: Any) -> tuple[ReviewRecord, Counter[str]]:
    task, problems = _task(draft, result, **annotation), Counter[str]()
    return review_of(task.annotations[0], task, KEY, problems), problems


def _untouched(draft: DraftRecord) -> list[dict[str, Any]]:
    return [{**region, "origin": "prediction"} for region in prediction_of(draft)["result"]]


@pytest.mark.parametrize("organ", ORGANS)
@pytest.mark.parametrize("lesion", ["present", "absent", NOT_ASSESSED])
@pytest.mark.parametrize("pick", range(4))
@pytest.mark.parametrize("qualified", [False, True])
def test_an_untouched_draft_comes_back_as_it_went(draft, organ, lesion, pick, qualified) -> None:
    boxes = (
        LesionBox(image_index=0, x=0.1, y=0.2, width=1 / 3, height=0.07),
        LesionBox(image_index=1, x=0, y=0, width=1, height=1),
    )
    sent = draft(organ=organ, lesion=lesion, pick=pick, boxes=boxes, qualified=qualified)
    review, problems = _review(sent, _untouched(sent))
    assert not problems
    assert (review.findings, review.impression, review.entities) == (
        sent.findings,
        sent.impression,
        sent.entities,
    )
    for got, want in zip(review.boxes, sent.boxes, strict=True):
        assert got.image_index == want.image_index
        assert got.model_dump() == pytest.approx(want.model_dump(), abs=1e-12)
    origins = dict(review.origins)
    assert origins.pop("boxes") == ("prediction" if lesion == "present" else "missing")
    assert set(origins.values()) == {"prediction"}
    assert review.model_version == "nano/1"
    assert (review.case_id, review.lead_time_s) == (sent.case_id, 12.5)


def test_origins_tell_untouched_edited_manual_and_missing_fields_apart(draft) -> None:
    sent = draft(organ="breast", boxes=())
    content = PageContent("Now another text.", "Simple cyst.", sent.parsed_entities(), ())
    result = corrected_regions(content, prediction_of(sent)["result"])
    result = [r for r in result if r["from_name"] != "breast_margin"]
    result[-1] = {**result[-1], "origin": "manual"}
    review, _ = _review(sent, result)
    assert review.origins["findings"] == "prediction-changed"
    assert review.origins["impression"] == "prediction"
    assert review.origins["margin"] == "missing"
    assert review.origins["bi_rads"] == "manual"
    entities = review.parsed_entities()
    assert entities is not None
    assert entities.flat()["margin"] == NOT_ASSESSED


def _with(result: list[dict[str, Any]], control: str, value: dict[str, Any]) -> list[dict[str, Any]]:
    """The regions with one control's value replaced."""
    return [{**r, "value": value} if r["from_name"] == control else r for r in result]


def test_side_place_and_size_that_a_reader_adds_are_read_and_manual(draft) -> None:
    sent = draft(organ="kidney")
    added = [
        {"from_name": "kidney_laterality", "value": {"choices": ["right"]}},
        {"from_name": "kidney_size_mm", "value": {"number": 23}},
    ]
    review, problems = _review(sent, [*_untouched(sent), *added])
    assert not problems
    entities = review.parsed_entities()
    assert entities is not None
    assert entities.flat() == {**sent.parsed_entities().flat(), "laterality": "right", "size_mm": "23"}
    assert review.origins["laterality"] == review.origins["size_mm"] == "manual"
    assert "pole" not in review.origins  # neither drafted nor read: nothing to correct


def test_a_qualifier_that_a_reader_takes_away_is_missing(draft) -> None:
    sent = draft(organ="kidney", qualified=True)
    result = [r for r in _untouched(sent) if r["from_name"] != "kidney_pole"]
    review, problems = _review(sent, _with(result, "kidney_size_mm", {"number": 0}))
    assert not problems
    entities = review.parsed_entities()
    assert entities is not None
    assert {"laterality", "pole", "size_mm"} & set(entities.flat()) == {"laterality"}
    assert review.origins["pole"] == "missing"


@pytest.mark.parametrize(
    ("value", "size", "problem"),
    [
        ({"number": 12.4}, "12", "rounded-value"),
        ({"number": 12.5}, "13", "rounded-value"),
        ({"number": 400}, "400", None),
        ({"number": 401}, None, "unknown-value"),
        ({"number": -3}, None, "unknown-value"),
        ({"number": float("nan")}, None, "unknown-value"),
        ({"number": True}, None, "unknown-value"),
        ({"number": "12"}, None, "unknown-value"),
        ({}, None, "unknown-value"),
    ],
)
def test_numbers_the_page_would_not_take_are_rounded_or_left_out_and_counted(
    draft, value, size, problem
) -> None:
    sent = draft(organ="liver", qualified=True)
    review, problems = _review(sent, _with(_untouched(sent), "liver_size_mm", value))
    entities = review.parsed_entities()
    assert entities is not None
    assert entities.flat().get("size_mm") == size
    assert problems == ({f"{problem} liver_size_mm": 1} if problem else {})


def test_a_place_outside_the_lexicon_is_left_out_and_of_two_sizes_the_last_counts(draft) -> None:
    sent = draft(organ="liver", qualified=True)
    result = _with(_untouched(sent), "liver_segment", {"choices": ["IX"]})
    result.append({"from_name": "liver_size_mm", "value": {"number": 7}})
    review, problems = _review(sent, result)
    entities = review.parsed_entities()
    assert entities is not None
    assert "segment" not in entities.flat()
    assert entities.flat()["size_mm"] == "7"
    assert problems == {"unknown-value liver_segment": 1, "several-values liver_size_mm": 1}


def test_a_deleted_box_shows_in_the_origin_though_label_studio_keeps_no_trace(draft) -> None:
    sent = draft()
    review, _ = _review(sent, [r for r in _untouched(sent) if r["from_name"] != "box"])
    assert review.origins["boxes"] == "missing"
    two = draft(boxes=sent.boxes * 2)
    review, _ = _review(two, _untouched(two)[:-1])
    assert review.origins["boxes"] == "prediction-changed"


def test_trailing_newlines_of_a_text_area_are_not_part_of_the_text(draft) -> None:
    sent = draft()
    result = _untouched(sent)
    result[0]["value"] = {"text": ["One.\nTwo.\n\n"]}
    assert _review(sent, result)[0].findings == "One.\nTwo."


def test_values_outside_the_lexicon_become_not_assessed_and_are_counted(draft) -> None:
    sent = draft()
    result = _untouched(sent)
    for region in result:
        if region["from_name"] == "breast_shape":
            region["value"] = {"choices": ["blob"]}
    review, problems = _review(sent, result)
    assert problems == {"unknown-value breast_shape": 1}
    entities = review.parsed_entities()
    assert entities is not None
    assert entities.flat()["shape"] == NOT_ASSESSED


def test_an_unknown_or_missing_organ_gives_a_review_without_entities(draft) -> None:
    sent = draft()
    result = [r for r in _untouched(sent) if r["from_name"] != "organ"]
    review, problems = _review(sent, result)
    assert review.entities is None
    assert review.findings == sent.findings
    assert problems == {"no-organ": 1}
    result.append({**_untouched(sent)[2], "value": {"choices": ["spleen"]}})
    review, problems = _review(sent, result)
    assert review.entities is None
    assert problems == {"no-organ": 1, "unknown-value organ": 1}


def test_descriptors_of_another_organ_or_of_no_lesion_are_left_out(draft) -> None:
    sent = draft(organ="thyroid", qualified=True)
    result = _untouched(sent)
    for region in result:
        if region["from_name"] == "lesion":
            region["value"] = {"choices": ["absent"]}
    result += [r for r in _untouched(draft(organ="breast")) if r["from_name"] == "breast_shape"]
    review, problems = _review(sent, result)
    assert review.entities == '{"organ":"thyroid","lesion":"absent"}'
    assert not problems


@pytest.mark.parametrize(
    ("change", "problem", "kept"),
    [
        ({"value": {"x": 80.0, "y": 10, "width": 40, "height": 10}}, "box-clipped", 1),
        ({"value": {"x": -5, "y": -5, "width": 20, "height": 20}}, "box-clipped", 1),
        ({"value": {"x": 120, "y": 10, "width": 5, "height": 5}}, "box-outside", 0),
        ({"value": {"x": 10, "y": 10, "width": 0, "height": 5}}, "box-outside", 0),
        ({"item_index": 2}, "box-outside", 0),
        ({"value": {"x": 10, "y": 10, "width": 5, "height": 5, "rotation": 30}}, "box-rotated", 0),
        ({"value": {"x": 10, "y": "?", "width": 5, "height": 5}}, "box-unreadable", 0),
        ({"value": {"x": float("nan"), "y": 1, "width": 5, "height": 5}}, "box-unreadable", 0),
        ({"value": {}}, "box-unreadable", 0),
    ],
)
def test_boxes_that_leave_the_image_are_cut_or_left_out_and_counted(draft, change, problem, kept) -> None:
    sent = draft()
    result = _untouched(sent)
    result[-1] = {**result[-1], **change}
    review, problems = _review(sent, result)
    assert problems == {problem: 1}
    assert len(review.boxes) == kept
    for box in review.boxes:
        assert box.x >= 0
        assert box.x + box.width <= 1


def test_the_reader_is_a_pseudonym_that_depends_on_the_key(draft) -> None:
    sent = draft()
    task = _task(sent, _untouched(sent))
    one = review_of(task.annotations[0], task, KEY, Counter())
    other = review_of(task.annotations[0], task, SecretStr("another key, long enough"), Counter())
    assert one.reader != other.reader
    assert "example" not in one.model_dump_json()


def test_each_edit_is_a_row_of_its_own_and_the_same_state_is_the_same_row(draft) -> None:
    sent = draft()
    first, _ = _review(sent, _untouched(sent))
    again, _ = _review(sent, _untouched(sent), updated_at="2026-01-02T04:04:05+01:00")
    later, _ = _review(sent, _untouched(sent), updated_at="2026-01-02T03:04:06Z")
    assert first.review_id == again.review_id != later.review_id


def test_an_annotation_without_a_draft_is_manual_and_names_no_model(draft) -> None:
    sent = draft()
    result = corrected_regions(PageContent("a", "b", sent.parsed_entities(), sent.boxes), [])
    review, _ = _review(sent, result, parent_prediction=None)
    assert review.model_version is None
    assert set(review.origins.values()) == {"manual"}


def test_skipped_annotations_and_foreign_tasks_are_counted_but_are_no_reviews(draft) -> None:
    sent = draft()
    skipped = _task(sent, [], was_cancelled=True)
    foreign = skipped.model_copy(update={"data": skipped.data.model_copy(update={"case_id": None})})
    found = reviews_of([skipped, foreign, _task(sent, _untouched(sent))], KEY)
    assert len(found.reviews) == 1
    assert found.num_cancelled == 1
    assert found.problems == {"foreign-task": 1}
    with pytest.raises(ValueError, match="annotation 9 of task 5"):
        review_of(skipped.annotations[0], skipped, KEY, Counter())


def test_an_empty_submission_is_a_review_of_nothing(draft) -> None:
    review, problems = _review(draft(), [])
    assert (review.findings, review.impression, review.entities, review.boxes) == ("", "", None, ())
    assert set(review.origins.values()) == {"missing"}
    assert problems == {"no-organ": 1}


@pytest.mark.parametrize("escape", get_args(Escape))
def test_an_escape_alone_is_a_review_and_a_missing_organ_no_problem(draft, escape) -> None:
    review, problems = _review(draft(), [escape_region(escape)])
    assert review.escape == escape
    assert review.entities is None
    assert not problems
    assert "escape" not in review.origins  # nothing drafted, so nothing that a reader kept or changed


def test_an_escape_beside_an_untouched_draft_keeps_both(draft) -> None:
    sent = draft()
    review, problems = _review(sent, [*_untouched(sent), escape_region("bad-image")])
    assert review.escape == "bad-image"
    assert review.parsed_entities() == sent.parsed_entities()
    assert not problems
    assert _review(sent, _untouched(sent))[0].escape is None


def test_an_escape_that_we_do_not_know_is_counted_and_of_two_the_last_counts(draft) -> None:
    sent = draft()
    unknown = {**escape_region("bad-image"), "value": {"choices": ["too-boring"]}}
    review, problems = _review(sent, [*_untouched(sent), unknown])
    assert review.escape is None
    assert problems == {"unknown-value escape": 1}
    two = [escape_region("bad-image"), escape_region("cannot-judge")]
    review, problems = _review(sent, [*_untouched(sent), *two])
    assert review.escape == "cannot-judge"
    assert problems == {"several-values escape": 1}
