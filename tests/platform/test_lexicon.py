"""The words a draft may use, and the JSON in which a model writes them."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from sonoloop.platform.lexicon import (
    BY_ORGAN,
    MAX_BOXES,
    ORGANS,
    BreastEntities,
    Entities,
    KidneyEntities,
    LesionBox,
    LesionStatus,
    Organ,
    ThyroidEntities,
    entities_json,
    field_values,
    fields,
    generated_text,
    generation_schema,
    parse_entities,
    parse_generated,
)

NODULE = {
    "composition": "solid or almost completely solid",
    "echogenicity": "hypoechoic",
    "shape": "wider-than-tall",
    "margin": "smooth",
    "echogenic_foci": "none or large comet-tail artifacts",
}


def any_entities(organ: Organ, status: str, rng: random.Random) -> Entities:
    """Valid entities with random values."""
    model = BY_ORGAN[organ]
    values = {
        name: rng.choice(field_values(organ, name))
        for name in fields(organ)
        if status == "present" or name not in model.descriptors()
    }
    return model.model_validate({**values, "lesion": status})


def nodule(**changes: str) -> ThyroidEntities:
    return ThyroidEntities.model_validate({"organ": "thyroid", "lesion": "present", **NODULE, **changes})


@pytest.mark.parametrize(("organ", "status"), list(itertools.product(ORGANS, get_args(LesionStatus))))
def test_what_is_taught_is_what_is_parsed(organ: Organ, status: str) -> None:
    rng = random.Random(f"{organ} {status}")
    boxes = (LesionBox(image_index=1, x=0.25, y=0.5, width=0.5, height=0.25),) if status == "present" else ()
    for _ in range(50):
        entities = any_entities(organ, status, rng)
        assert parse_generated(generated_text(entities, boxes), num_images=2) == (entities, boxes)
        assert parse_entities(entities_json(entities)) == entities


@pytest.mark.parametrize(("organ", "status"), list(itertools.product(ORGANS, get_args(LesionStatus))))
def test_what_is_taught_obeys_the_schema_key_by_key(organ: Organ, status: str) -> None:
    written = json.loads(generated_text(any_entities(organ, status, random.Random(0)), ()))
    alternatives = generation_schema((organ,), num_images=1)["anyOf"]
    (schema,) = (a for a in alternatives if a["properties"]["lesion"] == {"const": status})
    assert list(written) == schema["required"] == list(schema["properties"])
    for name, value in written.items():
        if name not in ("boxes", "lesion"):
            assert value in schema["properties"][name]["enum"]


def test_the_schema_offers_every_organ_and_no_image_beyond_the_case() -> None:
    alternatives = generation_schema(ORGANS, num_images=3)["anyOf"]
    assert len(alternatives) == len(ORGANS) * len(get_args(LesionStatus))
    boxes = [a["properties"]["boxes"] for a in alternatives if "boxes" in a["properties"]]
    assert {box["items"]["prefixItems"][0]["maximum"] for box in boxes} == {2}
    assert {box["maxItems"] for box in boxes} == {MAX_BOXES}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[1, 2]",
        "null",
        '{"organ": "spleen", "lesion": "absent"}',
        '{"organ": ["liver"], "lesion": "absent"}',
        '{"organ": null}',
        '{"organ": "liver", "parenchyma": "normal", "lesion": "maybe"}',
        '{"organ": "liver", "lesion": "absent"}',
        '{"organ": "liver", "parenchyma": "normal", "lesion": "absent", "surprise": "x"}',
        '{"organ": "liver", "parenchyma": "normal", "lesion": "absent", "margin": "well-defined"}',
        '{"organ": "liver", "parenchyma": "normal", "lesion": "present", "margin": "well-defined"}',
        '{"organ": "liver", "parenchyma": "normal", "lesion": "absent", "boxes": [[0, 1, 1, 5, 5]]}',
    ],
)
def test_text_outside_the_lexicon_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any message; the type is the promise
        parse_generated(text, num_images=1)


@pytest.mark.parametrize(
    "boxes",
    [
        5,
        None,
        "text",
        {},
        [5],
        [[1, 2]],
        [[0, 1, 2, 3, 4, 5]],
        [["0", 1, 1, 5, 5]],
        [[0, 1.5, 1, 5, 5]],
        [[True, 1, 1, 5, 5]],
        [[0, 1, 1, 5, 101]],
        [[0, -1, 1, 5, 50]],
        [[1, 1, 1, 5, 50]],
        [[-1, 1, 1, 5, 50]],
    ],
)
def test_boxes_that_are_none_are_a_value_error(boxes: Any) -> None:
    payload = {**nodule().flat(), "boxes": boxes}
    with pytest.raises(ValueError):  # noqa: PT011 - any message; the type is the promise
        parse_generated(json.dumps(payload), num_images=1)


def test_a_box_without_area_is_left_out_and_corners_may_come_in_any_order() -> None:
    payload = {**nodule().flat(), "boxes": [[0, 10, 10, 10, 40], [0, 60, 50, 20, 10]]}
    _, boxes = parse_generated(json.dumps(payload), num_images=1)
    assert [box.to_grid() for box in boxes] == [[0, 20, 10, 60, 50]]


def test_every_box_of_the_grid_comes_back_from_it() -> None:
    rng = random.Random(0)
    for _ in range(500):
        (left, right), (top, bottom) = (sorted(rng.sample(range(101), 2)) for _ in range(2))
        cell = [rng.randrange(4), left, top, right, bottom]
        assert LesionBox.from_grid(cell).to_grid() == cell


@pytest.mark.parametrize(
    "change", [{"x": 0.8}, {"y": 0.9}, {"width": 0}, {"height": -0.1}, {"x": -0.01}, {"image_index": -1}]
)
def test_a_box_that_leaves_its_image_or_has_no_area_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        LesionBox.model_validate(
            {"image_index": 0, "x": 0.5, "y": 0.5, "width": 0.4, "height": 0.4, **change}
        )


def test_nothing_found_and_could_not_look_are_different_and_neither_is_described() -> None:
    absent = KidneyEntities(organ="kidney", collecting_system="not dilated", lesion="absent")
    unseen = KidneyEntities(organ="kidney", collecting_system="not assessed", lesion="not assessed")
    assert absent != unseen
    with pytest.raises(ValidationError, match="described"):
        KidneyEntities(organ="kidney", collecting_system="dilated", lesion="absent", margin="ill-defined")


def test_a_present_lesion_names_what_is_missing_from_its_description() -> None:
    with pytest.raises(ValidationError, match=r"shape|bi_rads"):
        BreastEntities(organ="breast", lesion="present", margin="angular")


@pytest.mark.parametrize(
    ("changes", "points", "level"),
    [
        ({}, 4, "TR4"),  # solid 2 + hypoechoic 2
        ({"shape": "taller-than-wide"}, 7, "TR5"),
        ({"composition": "spongiform", "echogenicity": "very hypoechoic"}, 0, "TR1"),
        ({"composition": "mixed cystic and solid", "echogenicity": "hyperechoic or isoechoic"}, 2, "TR2"),
        ({"echogenicity": "hyperechoic or isoechoic"}, 3, "TR3"),
        (
            {"composition": "cystic or almost completely cystic", "echogenicity": "hyperechoic or isoechoic"},
            1,
            "TR1",
        ),
        ({"margin": "not assessed"}, None, None),
    ],
)
def test_ti_rads_points_and_levels_follow_the_published_chart(
    changes: dict[str, str], points: int | None, level: str | None
) -> None:
    assert (nodule(**changes).ti_rads_points(), nodule(**changes).ti_rads_level()) == (points, level)


def test_points_are_given_only_to_values_of_the_lexicon() -> None:
    for name, points in ThyroidEntities.POINTS.items():
        assert set(points) <= set(field_values("thyroid", name))


def test_an_unknown_field_has_no_values() -> None:
    with pytest.raises(KeyError):
        field_values("liver", "bi_rads")
