"""Between what a case's page holds and Label Studio's regions, the entries of a ``result`` list.

One region per filled control, with the control's name as its id: the same draft always gives the same
regions. Boxes are ``box-0``, ``box-1``, ... in percent of the image they lie on (``item_index``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

from sonoloop.platform.labelstudio.page import (
    BOX,
    BOX_LABEL,
    ESCAPE,
    FINDINGS,
    IMAGE,
    IMPRESSION,
    control_name,
)
from sonoloop.platform.lexicon import Entities, LesionBox, numeric_fields, ordered_fields
from sonoloop.platform.records import Escape

Origin = Literal["prediction", "prediction-changed", "manual"]


class Region(TypedDict):
    """One entry of a prediction's or annotation's ``result``, as far as we write it."""

    id: str
    from_name: str
    to_name: str
    type: Literal["textarea", "choices", "number", "rectanglelabels"]
    value: dict[str, Any]
    item_index: NotRequired[int]
    origin: NotRequired[Origin]


@dataclass(frozen=True)
class PageContent:
    """What a person sees filled in: both texts, the entities and the lesion boxes."""

    findings: str
    impression: str
    entities: Entities
    boxes: tuple[LesionBox, ...] = ()


def _text(name: str, text: str) -> Region:
    return {"id": name, "from_name": name, "to_name": IMAGE, "type": "textarea", "value": {"text": [text]}}


def _choice(name: str, value: str) -> Region:
    return {"id": name, "from_name": name, "to_name": IMAGE, "type": "choices", "value": {"choices": [value]}}


def _number(name: str, value: int) -> Region:
    return {"id": name, "from_name": name, "to_name": IMAGE, "type": "number", "value": {"number": value}}


def _entities(entities: Entities) -> list[Region]:
    flat, organ = entities.flat(), entities.organ
    return [
        _number(control_name(organ, name), int(flat[name]))
        if name in numeric_fields(organ)
        else _choice(control_name(organ, name), flat[name])
        for name in ordered_fields(type(entities))
        if name in flat
    ]


def _box(index: int, box: LesionBox) -> Region:
    percent = {name: 100 * getattr(box, name) for name in ("x", "y", "width", "height")}
    return {
        "id": f"{BOX}-{index}",
        "from_name": BOX,
        "to_name": IMAGE,
        "type": "rectanglelabels",
        "value": {**percent, "rotation": 0, "rectanglelabels": [BOX_LABEL]},
        "item_index": box.image_index,
    }


def regions_of(content: PageContent) -> list[Region]:
    """The regions that fill the page; an empty text gives none, so that its text area stays open."""
    texts = [(FINDINGS, content.findings), (IMPRESSION, content.impression)]
    return [
        *(_text(name, text) for name, text in texts if text),
        *_entities(content.entities),
        *(_box(index, box) for index, box in enumerate(content.boxes)),
    ]


def escape_region(escape: Escape) -> Region:
    """The region that says why a case has no answer; a person chooses it, so its origin is ``manual``."""
    return {**_choice(ESCAPE, escape), "origin": "manual"}


def corrected_regions(content: PageContent, parent: Sequence[Region]) -> list[Region]:
    """As `regions_of`, each with the ``origin`` that the page itself would have saved.

    For readers that are programs: Label Studio's browser page sets the origin, its API does not.

    Args:
        content: The corrected content.
        parent: The regions of the prediction that the correction started from; empty without one.
    """
    drafted = {region["id"]: region for region in parent}
    return [{**region, "origin": _origin(region, drafted)} for region in regions_of(content)]


def _origin(region: Region, drafted: dict[str, Region]) -> Origin:
    before = drafted.get(region["id"])
    if before is None:
        return "manual"
    same = before["value"] == region["value"] and before.get("item_index") == region.get("item_index")
    return "prediction" if same else "prediction-changed"
