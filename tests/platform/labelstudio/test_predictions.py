from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sonoloop.platform.labelstudio.page import build_page
from sonoloop.platform.labelstudio.predictions import (
    marks_of,
    model_version_of,
    prediction_of,
    task_data,
    version_name,
)
from sonoloop.platform.lexicon import ORGANS, LesionBox
from sonoloop.platform.records import CaseImage, CaseRecord


def test_a_draft_becomes_one_region_per_filled_control(draft) -> None:
    prediction = prediction_of(draft(organ="kidney"))
    assert prediction["model_version"] == "nano/1@p1"
    assert prediction["score"] == 0.75
    assert [region["from_name"] for region in prediction["result"]] == [
        "findings",
        "impression",
        "organ",
        "kidney_collecting_system",
        "lesion",
        "kidney_echogenicity",
        "kidney_margin",
        "kidney_posterior_features",
        "box",
    ]
    assert len({region["id"] for region in prediction["result"]}) == 9


def test_a_score_that_is_given_is_the_predictions_and_must_fit(draft) -> None:
    assert prediction_of(draft(), score=0.0)["score"] == 0.0
    assert prediction_of(draft(), score=None)["score"] == 0.75
    with pytest.raises(ValueError, match="in: score"):
        prediction_of(draft(), score=1.5)


def test_side_and_place_are_choices_and_a_size_is_a_number(draft) -> None:
    drafted = draft(organ="kidney", qualified=True, pick=2)
    regions = {r["from_name"]: r for r in prediction_of(drafted)["result"]}
    assert list(regions)[-4:] == ["kidney_laterality", "kidney_pole", "kidney_size_mm", "box"]
    assert regions["kidney_pole"]["value"] == {"choices": ["lower pole"]}
    assert regions["kidney_size_mm"]["type"] == "number"
    assert regions["kidney_size_mm"]["value"] == {"number": 12}


def test_boxes_are_percent_of_the_image_they_lie_on(draft) -> None:
    boxes = (LesionBox(image_index=2, x=0.1, y=0.25, width=0.5, height=0.75),)
    region = prediction_of(draft(boxes=boxes))["result"][-1]
    assert region["item_index"] == 2
    assert {name: region["value"][name] for name in ("x", "y", "width", "height")} == {
        "x": 10,
        "y": 25,
        "width": 50,
        "height": 75,
    }


def test_an_empty_text_gives_no_region_so_that_its_field_stays_open(draft) -> None:
    names = [r["from_name"] for r in prediction_of(draft().model_copy(update={"findings": ""}))["result"]]
    assert "findings" not in names
    assert "impression" in names


def test_a_draft_that_does_not_fit_names_case_and_place_but_never_the_text(draft) -> None:
    bad = draft("case-7").model_copy(update={"confidence": 1.7, "findings": "Jane Doe"})
    with pytest.raises(ValueError, match=r"case-7 .* in: score") as caught:
        prediction_of(bad)
    assert "Jane" not in str(caught.value)
    bad = draft("case-8").model_copy(update={"impression": 12})
    with pytest.raises(ValueError, match=r"case-8 .* in: impression"):
        prediction_of(bad)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("organ", ORGANS)
def test_a_draft_fits_the_page_of_its_organ_in_every_language(draft, organ, language) -> None:
    sent = draft(organ=organ, qualified=True)
    assert prediction_of(sent, page=build_page(organ, language)) == prediction_of(sent)


def test_the_page_of_one_organ_refuses_drafts_of_another(draft) -> None:
    with pytest.raises(
        ValueError, match=r"case-9 was drafted as thyroid, an organ that the labeling page lacks"
    ):
        prediction_of(draft("case-9", organ="thyroid"), page=build_page("breast"))


def test_a_page_that_was_changed_by_hand_refuses_what_it_lacks_and_names_the_controls(draft) -> None:
    page = build_page("kidney").replace("kidney_margin", "kidney_edge").replace('"dilated"', '"wide"')
    with pytest.raises(ValueError, match=r"case-1 .* in: kidney_collecting_system, kidney_margin"):
        prediction_of(draft(organ="kidney", pick=1), page=page)


def test_values_below_the_limit_are_marked_under_their_controls_and_no_others(draft) -> None:
    sent = draft(organ="kidney", qualified=True)
    seen = {"organ": 0.99, "lesion": 0.41, "margin": 0.6, "laterality": 0.7, "size_mm": 0.004, "pole": 0.5}
    assert marks_of(sent, {**seen, "somebody_elses": 0.1}, below=0.6) == {
        "lesion": "? 41%",
        "kidney_pole": "? 50%",
        "kidney_size_mm": "? 0%",
    }
    assert marks_of(sent, seen, below=0.0) == {}


def test_a_value_that_the_draft_does_not_have_is_not_marked(draft) -> None:
    assert marks_of(draft(organ="kidney", lesion="absent"), {"margin": 0.1, "lesion": 0.2}, below=1) == {
        "lesion": "? 20%"
    }


def test_a_rejection_has_no_prediction(draft) -> None:
    with pytest.raises(ValueError, match="case-1 was rejected"):
        prediction_of(draft().model_copy(update={"status": "rejected"}))


def test_version_names_carry_the_prompt_and_come_back_without_it() -> None:
    assert model_version_of(version_name("nano/3", "p@2")) == "nano/3@p"  # prompt names hold no @
    assert model_version_of(version_name("nano/3", "p2")) == "nano/3"
    assert model_version_of("someone-elses") == "someone-elses"


def test_task_data_holds_image_uris_in_the_order_of_the_case_and_no_identifier() -> None:
    images = tuple(
        CaseImage(image_key=f"images/ab/{n}.png", instance_id="i", frame_index=0, width=9, height=9)
        for n in "ba"
    )
    case = CaseRecord(
        case_id="c",
        patient_key="secret",
        organ_hint=None,
        scanner="X",
        images=images,
        indexed_at=datetime.now(UTC),
    )
    assert task_data(case, "s3://bucket/ws/") == {
        "case_id": "c",
        "images": ["s3://bucket/ws/images/ab/b.png", "s3://bucket/ws/images/ab/a.png"],
        "organ_hint": "not known",
        "scanner": "X",
        "marks": {},
    }
    marks = {"lesion": "? 41%"}
    assert task_data(case, "s3://bucket/ws/", marks=marks)["marks"] == marks
