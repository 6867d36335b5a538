"""The words a draft may use: one pydantic model of entities per organ, and lesion boxes.

A case describes one dominant lesion. Organ-level fields (liver parenchyma, renal collecting system) are
always given; lesion descriptors are given exactly when ``lesion`` is ``present``. "Nothing found"
(``lesion: absent``) and "could not look" (``not assessed``) are different values.

Vocabularies and their sources:

- breast: ACR BI-RADS Atlas, 5th ed. (2013), Ultrasound lexicon.
- thyroid: ACR TI-RADS, Tessler et al., J Am Coll Radiol 2017;14:587-595, doi 10.1016/j.jacr.2017.01.046.
- liver, kidney: descriptors common to focal lesions and organ background; no scoring system is implied.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

NOT_ASSESSED = "not assessed"
BOX_GRID = 100
"""Boxes are written as whole percent of the image's width and height."""
MAX_BOXES = 4

Organ = Literal["breast", "thyroid", "liver", "kidney"]
ORGANS: tuple[Organ, ...] = get_args(Organ)
LesionStatus = Literal["present", "absent", "not assessed"]


class LesionBox(BaseModel):
    """A lesion's box on one image of a case, in fractions of the image (0..1, origin top left).

    Raises:
        ValidationError: the box leaves the image or has no area.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_index: int = Field(ge=0, description="index into the case's images, from 0")
    x: float = Field(ge=0, le=1, description="left edge, fraction of width")
    y: float = Field(ge=0, le=1, description="top edge, fraction of height")
    width: float = Field(gt=0, le=1, description="fraction of image width")
    height: float = Field(gt=0, le=1, description="fraction of image height")

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if self.x + self.width > 1 + 1e-6 or self.y + self.height > 1 + 1e-6:
            raise ValueError("the box leaves the image")
        return self

    def to_grid(self) -> list[int]:
        """``[image_index, left, top, right, bottom]``, edges in whole percent (0..100)."""
        edges = (self.x, self.y, self.x + self.width, self.y + self.height)
        return [self.image_index, *(round(edge * BOX_GRID) for edge in edges)]

    @classmethod
    def from_grid(cls, cell: list[int]) -> Self:
        """Inverse of `to_grid`; corners may come in either order.

        Raises:
            ValueError: not five numbers, outside the grid, or without area.
        """
        if len(cell) != 5:
            raise ValueError(f"a box is [image, left, top, right, bottom], got {len(cell)} numbers")
        image_index, *edges = cell
        left, right = sorted((edges[0] / BOX_GRID, edges[2] / BOX_GRID))
        top, bottom = sorted((edges[1] / BOX_GRID, edges[3] / BOX_GRID))
        return cls(image_index=image_index, x=left, y=top, width=right - left, height=bottom - top)


class Entities(BaseModel):
    """What every organ's entities share. Optional fields are lesion descriptors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    organ: Organ
    lesion: LesionStatus

    @classmethod
    def descriptors(cls) -> tuple[str, ...]:
        """Names of the fields that describe the lesion, in writing order."""
        return tuple(name for name, field in cls.model_fields.items() if not field.is_required())

    @model_validator(mode="after")
    def _descriptors_follow_lesion(self) -> Self:
        given = [name for name in self.descriptors() if getattr(self, name) is not None]
        if self.lesion == "present" and len(given) != len(self.descriptors()):
            missing = sorted(set(self.descriptors()) - set(given))
            raise ValueError(f"a lesion is present but not described: {', '.join(missing)}")
        if self.lesion != "present" and given:
            raise ValueError(f"no lesion is present but described: {', '.join(given)}")
        return self

    def flat(self) -> dict[str, str]:
        """Field name to value, without the descriptors that do not apply."""
        return {name: str(value) for name, value in self.model_dump(exclude_none=True).items()}


class BreastEntities(Entities):
    """ACR BI-RADS ultrasound descriptors and assessment category."""

    organ: Literal["breast"]
    shape: Literal["oval", "round", "irregular", "not assessed"] | None = None
    orientation: Literal["parallel", "not parallel", "not assessed"] | None = None
    margin: (
        Literal["circumscribed", "indistinct", "angular", "microlobulated", "spiculated", "not assessed"]
        | None
    ) = None
    echo_pattern: (
        Literal[
            "anechoic",
            "hyperechoic",
            "complex cystic and solid",
            "hypoechoic",
            "isoechoic",
            "heterogeneous",
            "not assessed",
        ]
        | None
    ) = None
    posterior_features: (
        Literal["none", "enhancement", "shadowing", "combined pattern", "not assessed"] | None
    ) = None
    calcifications: (
        Literal["absent", "in a mass", "outside of a mass", "intraductal", "not assessed"] | None
    ) = None
    bi_rads: Literal["0", "2", "3", "4A", "4B", "4C", "5", "6", "not assessed"] | None = None


class ThyroidEntities(Entities):
    """ACR TI-RADS features; points and level are computed, never written."""

    organ: Literal["thyroid"]
    composition: (
        Literal[
            "cystic or almost completely cystic",
            "spongiform",
            "mixed cystic and solid",
            "solid or almost completely solid",
            "not assessed",
        ]
        | None
    ) = None
    echogenicity: (
        Literal["anechoic", "hyperechoic or isoechoic", "hypoechoic", "very hypoechoic", "not assessed"]
        | None
    ) = None
    shape: Literal["wider-than-tall", "taller-than-wide", "not assessed"] | None = None
    margin: (
        Literal[
            "smooth", "ill-defined", "lobulated or irregular", "extra-thyroidal extension", "not assessed"
        ]
        | None
    ) = None
    echogenic_foci: (
        Literal[
            "none or large comet-tail artifacts",
            "macrocalcifications",
            "peripheral (rim) calcifications",
            "punctate echogenic foci",
            "not assessed",
        ]
        | None
    ) = None

    POINTS: ClassVar[dict[str, dict[str, int]]] = {
        "composition": {"mixed cystic and solid": 1, "solid or almost completely solid": 2},
        "echogenicity": {"hyperechoic or isoechoic": 1, "hypoechoic": 2, "very hypoechoic": 3},
        "shape": {"taller-than-wide": 3},
        "margin": {"lobulated or irregular": 2, "extra-thyroidal extension": 3},
        "echogenic_foci": {
            "macrocalcifications": 1,
            "peripheral (rim) calcifications": 2,
            "punctate echogenic foci": 3,
        },
    }

    def ti_rads_points(self) -> int | None:
        """ACR TI-RADS points, or ``None`` where no lesion or a feature was not assessed.

        Source: Tessler et al. 2017, figure 1. A spongiform nodule scores no further points.
        """
        values = {name: getattr(self, name) for name in self.POINTS}
        if self.lesion != "present" or NOT_ASSESSED in values.values():
            return None
        if values["composition"] == "spongiform":
            return 0
        return sum(self.POINTS[name].get(value, 0) for name, value in values.items())

    def ti_rads_level(self) -> str | None:
        """``TR1`` to ``TR5`` from the points. Source: Tessler et al. 2017, figure 1."""
        points = self.ti_rads_points()
        if points is None:
            return None
        return "TR5" if points >= 7 else "TR4" if points >= 4 else {3: "TR3", 2: "TR2"}.get(points, "TR1")


class LiverEntities(Entities):
    """Liver background and one focal lesion."""

    organ: Literal["liver"]
    parenchyma: Literal["normal", "increased echogenicity", "coarse", "not assessed"]
    echogenicity: Literal["anechoic", "hypoechoic", "isoechoic", "hyperechoic", "not assessed"] | None = None
    margin: Literal["well-defined", "ill-defined", "not assessed"] | None = None
    posterior_features: Literal["none", "enhancement", "shadowing", "not assessed"] | None = None


class KidneyEntities(Entities):
    """Renal collecting system and one focal lesion (a calculus is hyperechoic with shadowing)."""

    organ: Literal["kidney"]
    collecting_system: Literal["not dilated", "dilated", "not assessed"]
    echogenicity: Literal["anechoic", "hypoechoic", "isoechoic", "hyperechoic", "not assessed"] | None = None
    margin: Literal["well-defined", "ill-defined", "not assessed"] | None = None
    posterior_features: Literal["none", "enhancement", "shadowing", "not assessed"] | None = None


BY_ORGAN: dict[Organ, type[Entities]] = {
    "breast": BreastEntities,
    "thyroid": ThyroidEntities,
    "liver": LiverEntities,
    "kidney": KidneyEntities,
}


def field_values(organ: Organ, field: str) -> tuple[str, ...]:
    """The admissible values of one field, in the order of the vocabulary.

    Raises:
        KeyError: the organ has no such field.
    """
    schema = BY_ORGAN[organ].model_json_schema()["properties"][field]
    for part in schema.get("anyOf", [schema]):
        if "enum" in part:
            return tuple(part["enum"])
        if "const" in part:
            return (part["const"],)
    raise KeyError(field)


def fields(organ: Organ) -> tuple[str, ...]:
    """All entity fields of one organ in writing order, ``organ`` and ``lesion`` included."""
    return ordered_fields(BY_ORGAN[organ])


def ordered_fields(model: type[Entities]) -> tuple[str, ...]:
    """``organ``, then organ-level fields, then ``lesion``, then the lesion's descriptors."""
    level = [n for n, f in model.model_fields.items() if f.is_required() and n not in ("organ", "lesion")]
    return ("organ", *level, "lesion", *model.descriptors())


def generation_schema(organs: tuple[Organ, ...], *, num_images: int) -> dict[str, Any]:
    """JSON schema under which a draft's entities and boxes are decoded.

    One alternative per organ and lesion status; key order is fixed, so generation is a plain walk.

    Args:
        organs: The organs the draft may be about; one where the organ is known.
        num_images: Images of the case; a box names one of them.
    """
    alternatives = []
    for organ in organs:
        model = BY_ORGAN[organ]
        for status in get_args(LesionStatus):
            names = [n for n in fields(organ) if status == "present" or n not in model.descriptors()]
            properties: dict[str, Any] = {name: {"enum": list(field_values(organ, name))} for name in names}
            properties["lesion"] = {"const": status}
            if status == "present":
                properties["boxes"] = _boxes_schema(num_images)
            alternatives.append(
                {
                    "type": "object",
                    "properties": properties,
                    "required": list(properties),
                    "additionalProperties": False,
                }
            )
    return {"anyOf": alternatives}


def _boxes_schema(num_images: int) -> dict[str, Any]:
    edge = {"type": "integer", "minimum": 0, "maximum": BOX_GRID}
    image = {"type": "integer", "minimum": 0, "maximum": max(num_images - 1, 0)}
    box = {"type": "array", "prefixItems": [image, edge, edge, edge, edge], "minItems": 5, "maxItems": 5}
    return {"type": "array", "items": box, "maxItems": MAX_BOXES}


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
    flat = entities.flat()
    payload: dict[str, Any] = {name: flat[name] for name in ordered_fields(type(entities)) if name in flat}
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
