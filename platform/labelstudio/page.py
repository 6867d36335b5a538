"""The labeling page: a configuration for every organ or for one, made from the lexicon.

Images stand left, the form right. ``findings`` and ``impression`` are text areas, ``organ``, ``lesion`` and
``escape`` choices, ``box`` rectangles on any of the case's images. Each further entity field is one control
named ``<organ>_<field>`` (`control_name`), visible only while its organ is chosen and, for descriptors of a
lesion, while ``lesion`` is ``present``. A page of one organ has that organ's fields only; ``organ`` is there
too, chosen and out of sight. The names are a contract with every annotation already made: names are only ever
added. So are stored values: whatever language is shown, an annotation holds the lexicon's English words.

A lesion's qualifiers (side, place, size) stand together below its descriptors; left empty, one was not
assessed. Beside a field's title stands its mark from the task's data, ``marks.<control>``, where it has one.
``escape`` says why there is no answer. Nothing is required: an escape can always be submitted.
"""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from functools import cache
from typing import get_args

from sonoloop.platform.labelstudio.page_keys import (
    BOX_KEY,
    ESCAPE_KEYS,
    LESION_KEYS,
    NO_KEY,
    ORGAN_KEYS,
    field_keys,
)
from sonoloop.platform.labelstudio.page_style import NOT_ASSESSED_STYLE, STYLE
from sonoloop.platform.labelstudio.page_words import ESCAPE_WORDS, PHRASES, Language, title, word
from sonoloop.platform.lexicon import (
    BY_ORGAN,
    NOT_ASSESSED,
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
from sonoloop.platform.records import Escape

IMAGE = "image"
FINDINGS = "findings"
IMPRESSION = "impression"
ORGAN = "organ"
LESION = "lesion"
ESCAPE = "escape"
BOX = "box"
BOX_LABEL = "lesion"
CORE_CONTROLS = (FINDINGS, IMPRESSION, ORGAN, LESION, BOX)
"""Controls that every page of ours had and has; by them ours is told from others."""
_LIST_FROM = 10
"""So many values side by side would push the rest of the form off a laptop's screen."""


def control_name(organ: Organ, field: str) -> str:
    """The page's control for an entity field of an organ; ``organ`` and ``lesion`` are shared by all."""
    return field if field in (ORGAN, LESION) else f"{organ}_{field}"


def choice_controls(organ: Organ | None = None) -> dict[str, tuple[str, ...]]:
    """The choice controls of a page with their stored values, entities in page order and ``escape`` last.

    Args:
        organ: Of the page; ``None`` for the page of all organs.
    """
    organs = (organ,) if organ else ORGANS
    controls: dict[str, tuple[str, ...]] = {ORGAN: organs, LESION: get_args(LesionStatus)}
    for each in organs:
        for field in choice_fields(each):
            if field not in controls:
                controls[control_name(each, field)] = field_values(each, field)
    return {**controls, ESCAPE: get_args(Escape)}


def number_controls(organ: Organ | None = None) -> dict[str, tuple[int, int]]:
    """The number controls of a page with their smallest and largest values, in page order.

    Args:
        organ: Of the page; ``None`` for the page of all organs.
    """
    return {
        control_name(each, field): number_range(each, field)
        for each in ((organ,) if organ else ORGANS)
        for field in numeric_fields(each)
    }


def _header(parent: ET.Element, text: str) -> None:
    ET.SubElement(parent, "Header", value=text, size="5")


def _view(parent: ET.Element, class_name: str) -> ET.Element:
    return ET.SubElement(parent, "View", className=class_name)


def _only_when(parent: ET.Element, control: str, value: str) -> ET.Element:
    return ET.SubElement(
        parent, "View", visibleWhen="choice-selected", whenTagName=control, whenChoiceValue=value
    )


def _choice(parent: ET.Element, value: str, shown: str, key: str) -> ET.Element:
    attributes = {"value": shown} if shown == value else {"value": shown, "alias": value}
    return ET.SubElement(parent, "Choice", attributes, hotkey=key)


class _Form:
    """Writes the fields of one page, in its language and with its keys."""

    def __init__(self, organ: Organ | None, language: Language) -> None:
        self.organ = organ
        self.language = language
        self.keys = field_keys(organ) if organ else {}

    def title(self, parent: ET.Element, control: str, shown: str) -> None:
        """A title with the place for its mark; Label Studio shows nothing where the data has none."""
        view = _view(parent, "sl-title")
        _header(view, shown)
        _header(_view(view, "sl-mark"), f"$marks.{control}")

    def row(self, parent: ET.Element, organ: Organ | None, field: str, keys: str) -> ET.Element:
        """A choice field: its values side by side, or in a list where there are many.

        Args:
            parent: Where it goes.
            organ: Whose field; ``None`` for what all organs share.
            field: A choice field.
            keys: One key per value, or empty.
        """
        name = control_name(organ, field) if organ else field
        row = _view(parent, "sl-row" if keys else "sl-row sl-keyless")
        self.title(row, name, title(organ, field, self.language))
        values = choice_controls(self.organ)[name]
        layout = {"showInline": "true"} if len(values) < _LIST_FROM else {"layout": "select"}
        choices = ET.SubElement(
            row, "Choices", layout, name=name, toName=IMAGE, choice="single", allowNested="false"
        )
        for index, value in enumerate(values):
            choice = _choice(choices, value, self.word(organ, field, value), keys[index] if keys else NO_KEY)
            if value == NOT_ASSESSED:
                choice.set("style", NOT_ASSESSED_STYLE)
        return choices

    def word(self, organ: Organ | None, field: str, value: str) -> str:
        if field == ESCAPE:
            return dict[str, str](ESCAPE_WORDS[self.language])[value]
        return word(organ, field, value, self.language)

    def text(self, parent: ET.Element, name: str, rows: int) -> None:
        shown = title(None, name, self.language)
        _header(parent, shown)
        placeholder = PHRASES[self.language]["write"].format(title=shown.lower())
        ET.SubElement(
            parent,
            "TextArea",
            name=name,
            toName=IMAGE,
            editable="true",
            maxSubmissions="1",
            rows=str(rows),
            placeholder=placeholder,
        )

    def organ_row(self, parent: ET.Element) -> None:
        """On a page of one organ it is chosen beforehand, for tasks without a draft, and cannot be undone."""
        if self.organ is None:
            self.row(parent, None, ORGAN, ORGAN_KEYS)
            return
        choices = self.row(_view(parent, "sl-fixed"), None, ORGAN, "")
        choices[0].set("selected", "true")

    def organ_fields(self, parent: ET.Element, *, of_lesion: bool) -> None:
        """The fields of each organ of the page: those of its lesion, or the others."""
        for organ in (self.organ,) if self.organ else ORGANS:
            descriptors = BY_ORGAN[organ].descriptors()
            names = [n for n in fields(organ) if n not in (ORGAN, LESION) and (n in descriptors) == of_lesion]
            if not names:
                continue
            view = parent if self.organ else _only_when(parent, ORGAN, organ)
            for name in names:
                self.row(view, organ, name, self.keys.get(name, ""))
            if of_lesion:
                self.qualifiers(view, organ)

    def qualifiers(self, parent: ET.Element, organ: Organ) -> None:
        place = _view(parent, "sl-place")
        for name in qualifiers(organ):
            item = _view(place, "sl-item")
            self.title(item, control_name(organ, name), title(organ, name, self.language))
            control = {"name": control_name(organ, name), "toName": IMAGE}
            if name in numeric_fields(organ):
                _, high = number_range(organ, name)
                # From 0: an emptied field becomes 0 (Label Studio 1.23), and below "min" it blocks "Submit".
                ET.SubElement(item, "Number", control, min="0", max=str(high), step="1", hotkey=NO_KEY)
            else:
                choices = ET.SubElement(item, "Choices", control, choice="single", layout="select")
                for value in field_values(organ, name):
                    _choice(choices, value, word(organ, name, value, self.language), NO_KEY)

    def write(self, parent: ET.Element) -> None:
        """The whole form."""
        head = _view(parent, "sl-head")
        organ = word(None, ORGAN, self.organ, self.language).capitalize() + " · " if self.organ else ""
        _header(head, organ + PHRASES[self.language]["case"])
        _header(_view(head, "sl-legend"), PHRASES[self.language]["unsure"])
        self.row(parent, None, ESCAPE, ESCAPE_KEYS)
        self.text(parent, FINDINGS, rows=4)
        self.text(parent, IMPRESSION, rows=2)
        self.organ_row(parent)
        self.organ_fields(parent, of_lesion=False)
        self.row(parent, None, LESION, LESION_KEYS)
        self.organ_fields(_only_when(parent, LESION, "present"), of_lesion=True)


def _images(page: ET.Element, language: Language) -> None:
    side = _view(page, "sl-images")
    labels = ET.SubElement(side, "RectangleLabels", name=BOX, toName=IMAGE, showInline="true")
    shown = BOX_LABEL if language == "en" else title(None, LESION, language)
    attributes = {"value": shown} if shown == BOX_LABEL else {"value": shown, "alias": BOX_LABEL}
    ET.SubElement(labels, "Label", attributes, background="#f5a623", hotkey=BOX_KEY)
    ET.SubElement(
        side, "Image", name=IMAGE, valueList="$images", zoom="true", zoomControl="true", rotateControl="false"
    )


@cache
def build_page(organ: Organ | None = None, language: Language = "en") -> str:
    """The labeling configuration, as Label Studio's XML.

    Args:
        organ: The one organ of the page; ``None`` for a page of all organs.
        language: Of titles and of the words shown for values; the stored values are the same in each.
    """
    root = ET.Element("View")
    ET.SubElement(root, "Style").text = STYLE
    page = _view(root, "sl-page")
    _images(page, language)
    _Form(organ, language).write(_view(page, "sl-form"))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")


def page_hash(page: str) -> str:
    """Eight hex digits that name a labeling configuration."""
    return hashlib.sha256(page.encode()).hexdigest()[:8]
