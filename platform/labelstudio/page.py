"""The labeling page: one configuration for every organ, made from the lexicon.

Images stand left, the form right. ``findings`` and ``impression`` are text areas, ``organ`` and ``lesion``
choices, ``box`` rectangles on any of the case's images. Each further entity field is one control named
``<organ>_<field>`` (`control_name`), visible only while its organ is chosen and, for descriptors of a lesion,
while ``lesion`` is ``present``. The names are a contract with every annotation already made: names are only
ever added.

A lesion's qualifiers (side, place, size) stand together below its descriptors; left empty, one was not
assessed.
"""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from typing import get_args

from sonoloop.platform.lexicon import (
    BY_ORGAN,
    ORGANS,
    LesionStatus,
    Organ,
    choice_fields,
    field_values,
    fields,
    number_range,
    numeric_fields,
    qualifiers,
)

IMAGE = "image"
FINDINGS = "findings"
IMPRESSION = "impression"
ORGAN = "organ"
LESION = "lesion"
BOX = "box"
BOX_LABEL = "lesion"
CORE_CONTROLS = (FINDINGS, IMPRESSION, ORGAN, LESION, BOX)
"""Controls that every page of ours had and has; by them ours is told from others."""

_TITLES = {
    "bi_rads": "BI-RADS",
    "o_rads": "O-RADS",
    "lv_size": "LV size",
    "lv_systolic_function": "LV function",
    "la_size": "LA size",
    "rv_size": "RV size",
    "ra_size": "RA size",
    "laterality": "Side",
    "clock_position": "O'clock",
    "nipple_distance_mm": "From nipple, mm",
    "size_mm": "Size, mm",
}
_HOTKEYS = {"organ": "1234890", "lesion": "567"}
"""A key for ever means the same choice: organs that came later got the keys that were left."""

# `.lsf-*` are Label Studio's own class names (1.23). Without these rules each field takes four times the
# height, so that a breast case no longer fits on a 1440x900 screen, and the pencil shows on hover only.
_STYLE = """
.sl-page { display: flex; gap: 12px; align-items: flex-start; }
.sl-images { flex: 1 1 54%; min-width: 0; position: sticky; top: 0; }
.sl-form { flex: 1 1 46%; min-width: 400px; }
.sl-form h4, .sl-form h5, .sl-form h6 { margin: 6px 0 2px !important; font-size: 13px; line-height: 18px; }
.sl-form .lsf-text-area { margin-top: 0 !important; }
.sl-form .lsf-text-area > div { margin-bottom: 4px !important; }
.sl-form .lsf-textarea__region { padding-right: 84px !important; }
.sl-form .lsf-textarea__actions { opacity: 0.75; pointer-events: auto; }
.sl-form .lsf-textarea__region:not(:hover) [aria-label="Delete Region"] { visibility: hidden; }
.sl-form textarea { min-height: 72px; }
.sl-row { display: grid; grid-template-columns: 104px 1fr; border-top: 1px solid rgba(128,128,128,0.25); }
.sl-row .lsf-choices { margin: 0; padding: 2px 0; display: flex; flex-wrap: wrap; gap: 0 4px; }
.sl-row .lsf-choice, .sl-row .lsf-choice__item { margin: 0; padding: 0; min-height: 0; }
.sl-row .lsf-choice__checkbox { margin: 0; font-size: 13px; line-height: 22px; }
.sl-row .lsf-choices_hidden { display: none; }
.sl-row .lsf-hint { opacity: 0.55; }
.sl-place { display: flex; flex-wrap: wrap; gap: 0 10px; border-top: 1px solid rgba(128,128,128,0.25); }
.sl-place .lsf-choices, .sl-place .lsf-number { margin: 0 !important; }
.sl-place button, .sl-place input { height: 28px !important; padding: 0 6px !important; font-size: 13px; }
.sl-place button { min-width: 64px; }
.sl-place input { width: 72px; }
"""


def control_name(organ: Organ, field: str) -> str:
    """The page's control for an entity field of an organ; ``organ`` and ``lesion`` are shared by all."""
    return field if field in (ORGAN, LESION) else f"{organ}_{field}"


def choice_controls() -> dict[str, tuple[str, ...]]:
    """Every choice control of the page with its admissible values, in page order."""
    controls: dict[str, tuple[str, ...]] = {ORGAN: ORGANS, LESION: get_args(LesionStatus)}
    for organ in ORGANS:
        for field in choice_fields(organ):
            if field not in controls:
                controls[control_name(organ, field)] = field_values(organ, field)
    return controls


def number_controls() -> dict[str, tuple[int, int]]:
    """Every number control of the page with its smallest and largest value, in page order."""
    return {
        control_name(organ, field): number_range(organ, field)
        for organ in ORGANS
        for field in numeric_fields(organ)
    }


def _title(field: str) -> str:
    return _TITLES.get(field, field.replace("_", " ").capitalize())


def _header(parent: ET.Element, text: str, size: int = 5) -> None:
    ET.SubElement(parent, "Header", value=text, size=str(size))


def _choices(parent: ET.Element, name: str, title: str, values: tuple[str, ...], hotkeys: str = "") -> None:
    row = ET.SubElement(parent, "View", className="sl-row")
    _header(row, title)
    choices = ET.SubElement(
        row, "Choices", name=name, toName=IMAGE, choice="single", showInline="true", allowNested="false"
    )
    for index, value in enumerate(values):
        choice = ET.SubElement(choices, "Choice", value=value)
        if index < len(hotkeys):
            choice.set("hotkey", hotkeys[index])


def _organ_fields(form: ET.Element, organ: Organ, *, of_lesion: bool) -> None:
    descriptors = BY_ORGAN[organ].descriptors()
    names = [n for n in fields(organ) if n not in (ORGAN, LESION) and (n in descriptors) == of_lesion]
    if not names:
        return
    view = ET.SubElement(
        form, "View", visibleWhen="choice-selected", whenTagName=ORGAN, whenChoiceValue=organ
    )
    for name in names:
        _choices(view, control_name(organ, name), _title(name), field_values(organ, name))
    if of_lesion:
        _qualifiers(view, organ)


def _qualifiers(parent: ET.Element, organ: Organ) -> None:
    place = ET.SubElement(parent, "View", className="sl-place")
    for name in qualifiers(organ):
        item = ET.SubElement(place, "View", className="sl-item")
        _header(item, _title(name), size=6)
        control = {"name": control_name(organ, name), "toName": IMAGE}
        if name in numeric_fields(organ):
            _, high = number_range(organ, name)
            # From 0: an emptied field becomes 0 (Label Studio 1.23), and below "min" it blocks "Submit".
            ET.SubElement(item, "Number", control, min="0", max=str(high), step="1")
        else:
            choices = ET.SubElement(item, "Choices", control, choice="single", layout="select")
            for value in field_values(organ, name):
                ET.SubElement(choices, "Choice", value=value)


def _text(form: ET.Element, name: str, rows: int) -> None:
    _header(form, _title(name))
    ET.SubElement(
        form,
        "TextArea",
        name=name,
        toName=IMAGE,
        editable="true",
        maxSubmissions="1",
        rows=str(rows),
        placeholder=f"Write the {name} here and press Shift+Enter",
    )


def _images(page: ET.Element) -> None:
    side = ET.SubElement(page, "View", className="sl-images")
    labels = ET.SubElement(side, "RectangleLabels", name=BOX, toName=IMAGE, showInline="true")
    ET.SubElement(labels, "Label", value=BOX_LABEL, background="#f5a623", hotkey="b")
    ET.SubElement(
        side, "Image", name=IMAGE, valueList="$images", zoom="true", zoomControl="true", rotateControl="false"
    )


def build_page() -> str:
    """The labeling configuration, as Label Studio's XML."""
    root = ET.Element("View")
    ET.SubElement(root, "Style").text = _STYLE
    page = ET.SubElement(root, "View", className="sl-page")
    _images(page)
    form = ET.SubElement(page, "View", className="sl-form")
    _header(form, "Case $case_id, scanner: $scanner", size=6)
    _text(form, FINDINGS, rows=4)
    _text(form, IMPRESSION, rows=2)
    _choices(form, ORGAN, "Organ", ORGANS, _HOTKEYS[ORGAN])
    for organ in ORGANS:
        _organ_fields(form, organ, of_lesion=False)
    _choices(form, LESION, "Lesion", get_args(LesionStatus), _HOTKEYS[LESION])
    described = ET.SubElement(
        form, "View", visibleWhen="choice-selected", whenTagName=LESION, whenChoiceValue="present"
    )
    for organ in ORGANS:
        _organ_fields(described, organ, of_lesion=True)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")


def page_hash(page: str) -> str:
    """Eight hex digits that name a labeling configuration."""
    return hashlib.sha256(page.encode()).hexdigest()[:8]
