"""What a person's edit of the labeling page in Label Studio took away that our predictions need.

A customised page is welcome: other words, another order, further controls. A control that is gone, renamed
or of another kind, or a choice that is, is not: Label Studio takes predictions for it, shows nothing and says
nothing, and a reader would send back an answer without it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from sonoloop.platform.errors import ServiceError


@dataclass(frozen=True)
class _Control:
    tag: str
    to_name: str | None
    values: frozenset[str]


def missing_on(page: str, ours: str) -> list[str]:
    """What a page lacks of our page's controls, in words that name controls and choices.

    Args:
        page: The labeling configuration that the project has.
        ours: The one that it was made with.
    """
    try:
        found = _controls(page)
    except ET.ParseError:
        return ["everything: it is no XML"]
    problems = []
    for name, control in _controls(ours).items():
        there = found.get(name)
        if there is None:
            problems.append(f"{name} is missing or renamed")
        elif (there.tag, there.to_name) != (control.tag, control.to_name):
            problems.append(f"{name} is a {there.tag} on {there.to_name}, not a {control.tag}")
        elif gone := sorted(control.values - there.values):
            problems.append(f"{name} lacks {', '.join(gone)}")
    return problems


def check_page(title: str, page: str, ours: str) -> None:
    """Refuse a page on which our predictions would not show whole.

    Raises:
        ServiceError: names the controls.
    """
    if problems := missing_on(page, ours):
        raise ServiceError(
            f"the labeling page of Label Studio's project {title!r} was edited and drafts do not fit on it: "
            f"{'; '.join(problems)}. Restore these under Settings, Labeling Interface, or choose another "
            "project title; nothing was sent"
        )


def _controls(page: str) -> dict[str, _Control]:
    """Controls by name, and what they are about: a tag with a name, its values those of its children."""
    return {
        element.attrib["name"]: _Control(
            element.tag,
            element.get("toName"),
            frozenset(child.get("alias") or child.get("value") or "" for child in element),
        )
        for element in ET.fromstring(page).iter()
        if "name" in element.attrib
    }
