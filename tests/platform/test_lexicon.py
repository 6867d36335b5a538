"""The words a draft may use, and the JSON in which a model writes them."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any, get_args

import jsonschema
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
    LiverEntities,
    Organ,
    ThyroidEntities,
    choice_fields,
    entities_json,
    field_values,
    fields,
    generated_text,
    generation_schema,
    longest_text,
    number_range,
    numeric_fields,
    ordered_fields,
    parse_entities,
    parse_generated,
    qualifiers,
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


def qualified(entities: Entities, rng: random.Random) -> Entities:
    """The same with every qualifier, where there is a lesion to qualify."""
    organ = entities.organ
    if entities.lesion != "present":
        return entities
    chosen = {
        name: str(rng.randint(*number_range(organ, name)))
        if name in numeric_fields(organ)
        else rng.choice(field_values(organ, name))
        for name in qualifiers(organ)
    }
    return type(entities).model_validate({**entities.flat(), **chosen})


def nodule(**changes: Any) -> ThyroidEntities:
    return ThyroidEntities.model_validate({"organ": "thyroid", "lesion": "present", **NODULE, **changes})


@pytest.mark.parametrize(("organ", "status"), list(itertools.product(ORGANS, get_args(LesionStatus))))
def test_what_is_taught_is_what_is_parsed(organ: Organ, status: str) -> None:
    rng = random.Random(f"{organ} {status}")
    boxes = (LesionBox(image_index=1, x=0.25, y=0.5, width=0.5, height=0.25),) if status == "present" else ()
    for _ in range(50):
        entities = any_entities(organ, status, rng)
        if rng.random() < 0.5:
            entities = qualified(entities, rng)
        assert parse_generated(generated_text(entities, boxes), num_images=2) == (entities, boxes)
        assert parse_entities(entities_json(entities)) == entities


@pytest.mark.parametrize(("organ", "status"), list(itertools.product(ORGANS, get_args(LesionStatus))))
def test_what_is_taught_obeys_the_schema_key_by_key(organ: Organ, status: str) -> None:
    alternatives = generation_schema((organ,), num_images=1)["anyOf"]
    (schema,) = (a for a in alternatives if a["properties"]["lesion"] == {"const": status})
    bare = any_entities(organ, status, random.Random(0))
    assert list(json.loads(generated_text(bare, ()))) == schema["required"]
    written = json.loads(generated_text(qualified(bare, random.Random(0)), ()))
    assert list(written) == list(schema["properties"])
    jsonschema.validate(written, schema)


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


def test_a_qualifier_is_given_only_where_it_was_assessed_and_only_of_a_lesion() -> None:
    with_size = nodule(size_mm=12, lobe="left lobe")
    assert "size_mm" not in entities_json(nodule())
    assert entities_json(with_size).endswith(',"lobe":"left lobe","size_mm":12}')
    assert generated_text(with_size, ()).endswith(',"lobe":"left lobe","size_mm":12,"boxes":[]}')
    assert with_size.flat()["size_mm"] == "12"
    with pytest.raises(ValidationError, match="size_mm"):
        LiverEntities(organ="liver", parenchyma="normal", lesion="absent", size_mm=9)
    with pytest.raises(ValidationError):
        LiverEntities.model_validate({"organ": "liver", "parenchyma": "normal", "lobe": "left lobe"})


@pytest.mark.parametrize("size", [0, -3, 401, 12.5, True, "twelve", [12]])
def test_a_size_that_is_no_whole_number_of_millimetres_in_range_is_refused(size: Any) -> None:
    payload = {**nodule().flat(), "size_mm": size, "boxes": []}
    with pytest.raises(ValueError, match="size_mm"):
        parse_generated(json.dumps(payload), num_images=1)


@pytest.mark.parametrize("organ", ORGANS)
def test_every_field_is_either_a_choice_or_a_number(organ: Organ) -> None:
    names = ordered_fields(BY_ORGAN[organ])
    assert names == (*fields(organ), *qualifiers(organ))
    assert set(names) == set(BY_ORGAN[organ].model_fields)
    assert sorted(names) == sorted((*choice_fields(organ), *numeric_fields(organ)))
    for name in choice_fields(organ):
        values = field_values(organ, name)
        assert len(set(values)) == len(values)
        # a qualifier that was not assessed is not written at all
        assert ("not assessed" in values) == (name != "organ" and name not in qualifiers(organ)), name
    for name in numeric_fields(organ):
        low, high = number_range(organ, name)
        assert 0 < low < high <= 400  # 0 is what an emptied number field of the page says
        with pytest.raises(KeyError):
            field_values(organ, name)


@pytest.mark.parametrize("organ", ORGANS)
@pytest.mark.parametrize("num_images", [1, 8, 60])
def test_no_text_is_longer_than_the_stated_bound(organ: Organ, num_images: int) -> None:
    longest = {
        name: str(number_range(organ, name)[1])
        if name in numeric_fields(organ)
        else max(field_values(organ, name), key=len)
        for name in ordered_fields(BY_ORGAN[organ])
    }
    entities = BY_ORGAN[organ].model_validate({**longest, "lesion": "present"})
    box = LesionBox(image_index=num_images - 1, x=0.1, y=0.1, width=0.9, height=0.9)
    text = generated_text(entities, (box,) * MAX_BOXES)
    bound = longest_text((organ,), num_images)
    # tight: a real box has a left and a top edge below 100, one digit less than the bound counts for each
    assert len(text.encode()) == bound - 2 * MAX_BOXES
    assert longest_text(ORGANS, num_images) >= bound


def test_the_bound_holds_for_every_organ_and_many_images() -> None:
    assert longest_text(ORGANS, 60) == max(longest_text((organ,), 60) for organ in ORGANS) <= 700
    assert longest_text(("liver",), 60) == longest_text(("liver",), 10) + MAX_BOXES


def test_the_first_organs_keep_their_place_and_write_what_they_always_wrote() -> None:
    assert ORGANS[:4] == ("breast", "thyroid", "liver", "kidney")
    breast = "organ lesion shape orientation margin echo_pattern posterior_features calcifications bi_rads"
    assert fields("breast") == tuple(breast.split())
    stone = KidneyEntities(
        organ="kidney",
        collecting_system="dilated",
        lesion="present",
        echogenicity="hyperechoic",
        margin="well-defined",
        posterior_features="shadowing",
    )
    assert generated_text(stone, (LesionBox(image_index=0, x=0.25, y=0.5, width=0.5, height=0.25),)) == (
        '{"organ":"kidney","collecting_system":"dilated","lesion":"present","echogenicity":"hyperechoic",'
        '"margin":"well-defined","posterior_features":"shadowing","boxes":[[0,25,50,75,75]]}'
    )
