"""The JSON in which a model writes entities and boxes: its schema, how it is read, how long it can get.

Key order is fixed. Qualifiers stand between the last descriptor and ``boxes`` and may each be left out.
"""

from __future__ import annotations

import json
from typing import Any, get_args

from pydantic import ValidationError

from sonoloop.platform.lexicon.base import ORGANS, Entities, LesionStatus, Organ
from sonoloop.platform.lexicon.boxes import BOX_GRID, MAX_BOXES, LesionBox
from sonoloop.platform.lexicon.vocabulary import (
    BY_ORGAN,
    field_values,
    fields,
    number_range,
    numeric_fields,
    ordered_fields,
    qualifiers,
)


def generation_schema(organs: tuple[Organ, ...], *, num_images: int) -> dict[str, Any]:
    """JSON schema under which a draft's entities and boxes are decoded.

    One alternative per organ and lesion status; key order is fixed, so generation is a plain walk. Nothing
    in it is of open length: see `longest_text`.

    Args:
        organs: The organs the draft may be about; one where the organ is known.
        num_images: Images of the case; a box names one of them.
    """
    return {
        "anyOf": [
            _alternative(organ, status, num_images) for organ in organs for status in get_args(LesionStatus)
        ]
    }


def _alternative(organ: Organ, status: LesionStatus, num_images: int) -> dict[str, Any]:
    descriptors = BY_ORGAN[organ].descriptors()
    names = [name for name in fields(organ) if status == "present" or name not in descriptors]
    properties = {name: _value_schema(organ, name) for name in names}
    properties["lesion"] = {"const": status}
    required = list(properties)
    if status == "present":
        properties |= {name: _value_schema(organ, name) for name in qualifiers(organ)}
        properties["boxes"] = _boxes_schema(num_images)
        required.append("boxes")
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _value_schema(organ: Organ, name: str) -> dict[str, Any]:
    if name in numeric_fields(organ):
        low, high = number_range(organ, name)
        return {"type": "integer", "minimum": low, "maximum": high}
    return {"enum": list(field_values(organ, name))}


def _boxes_schema(num_images: int) -> dict[str, Any]:
    edge = {"type": "integer", "minimum": 0, "maximum": BOX_GRID}
    image = {"type": "integer", "minimum": 0, "maximum": max(num_images - 1, 0)}
    box = {"type": "array", "prefixItems": [image, edge, edge, edge, edge], "minItems": 5, "maxItems": 5}
    return {"type": "array", "items": box, "maxItems": MAX_BOXES}


def longest_text(organs: tuple[Organ, ...], num_images: int) -> int:
    """Bytes of the longest text under `generation_schema`, without whitespace.

    A byte-level tokenizer needs at most one token per byte, so a budget of so many tokens and one for the end
    is always enough.
    """
    return _longest(generation_schema(organs, num_images=num_images))


def _longest(schema: dict[str, Any]) -> int:
    """Upper bound for the kinds of schema that this module makes."""
    if "anyOf" in schema:
        return max(_longest(part) for part in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return max(len(json.dumps(value)) for value in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "integer":
        return max(len(str(schema["minimum"])), len(str(schema["maximum"])))
    if schema["type"] == "object":
        parts = [len(json.dumps(name)) + 1 + _longest(value) for name, value in schema["properties"].items()]
    elif "prefixItems" in schema:
        parts = [_longest(item) for item in schema["prefixItems"]]
    else:
        parts = [_longest(schema["items"])] * schema["maxItems"]
    return 2 + sum(parts) + max(len(parts) - 1, 0)  # brackets, parts, commas


def parse_entities(text: str) -> Entities:
    """Validate a JSON object of entities without boxes.

    Raises:
        ValueError: not JSON, unknown organ, or a value outside the lexicon.
    """
    return _entities_from(_load_object(text))


def parse_generated(text: str, *, num_images: int) -> tuple[Entities, tuple[LesionBox, ...]]:
    """Validate what a model wrote under `generation_schema`.

    A box without area says nothing and is left out.

    Raises:
        ValueError: not JSON, outside the lexicon, boxes without a lesion, or a box on an image that the
            case does not have.
    """
    payload = _load_object(text)
    cells = _cells(payload.pop("boxes", []))
    boxes = tuple(LesionBox.from_grid(cell) for cell in cells if cell[1] != cell[3] and cell[2] != cell[4])
    if any(box.image_index >= num_images for box in boxes):
        raise ValueError(f"a box names an image beyond the case's {num_images}")
    entities = _entities_from(payload)
    if cells and entities.lesion != "present":
        raise ValueError("no lesion is present but boxes are given")
    return entities, boxes


def _cells(written: object) -> list[list[int]]:
    cells: list[Any] = written if isinstance(written, list) else [written]
    for cell in cells:
        if not isinstance(cell, list) or len(cell) != 5 or any(type(number) is not int for number in cell):
            raise ValueError("boxes are a list of [image, left, top, right, bottom], whole numbers")
    return cells


def generated_text(entities: Entities, boxes: tuple[LesionBox, ...]) -> str:
    """The JSON a model is taught to write: inverse of `parse_generated`, without whitespace."""
    given = entities.model_dump(exclude_none=True)
    payload: dict[str, Any] = {name: given[name] for name in ordered_fields(type(entities)) if name in given}
    if entities.lesion == "present":
        payload["boxes"] = [box.to_grid() for box in boxes]
    return json.dumps(payload, separators=(",", ":"))


def entities_json(entities: Entities) -> str:
    """Canonical JSON of entities for tables: fixed key order, no whitespace."""
    return generated_text(entities, ()).replace(',"boxes":[]', "")


def _load_object(text: str) -> dict[str, Any]:
    payload = json.loads(text)
    if not isinstance(payload, dict):
        raise ValueError("expected a JSON object of entities")  # noqa: TRY004 - a text without an object
    return payload


def _entities_from(payload: dict[str, Any]) -> Entities:
    organ = payload.get("organ")
    if organ not in ORGANS:
        raise ValueError("the organ is not in the lexicon")
    model = BY_ORGAN[organ]
    try:
        return model.model_validate(payload)
    except ValidationError as err:
        places = sorted({".".join(map(str, item["loc"])) or "entities" for item in err.errors()})
        raise ValueError(f"outside the lexicon: {', '.join(places)}") from err
