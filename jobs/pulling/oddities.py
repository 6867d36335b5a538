"""What a page or an annotation has that ours never had, counted by name so that somebody can look at it.

| problem | meaning |
|---|---|
| page-lacks <control> | the page was edited in Label Studio and readers cannot fill this in |
| unknown-control <control> | an annotation fills in a control that our page does not have; left out |
| empty-text <control> | an answer without this section; the case teaches nothing until it is there |
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable
from functools import cache

from sonoloop.platform.labelstudio.answers import SeenAnnotation
from sonoloop.platform.labelstudio.page import FINDINGS, IMPRESSION, build_page
from sonoloop.platform.records import ReviewRecord


def controls_of(label_config: str) -> frozenset[str]:
    """The names of a page's controls; none where it is no page at all."""
    try:
        elements = ET.fromstring(label_config).iter()
        return frozenset(element.get("name", "") for element in elements if element.get("toName"))
    except ET.ParseError:
        return frozenset()


@cache
def _ours() -> frozenset[str]:
    return controls_of(build_page())  # of all organs: it has every name that there ever was


def page_oddities(page: str, ours: str) -> Counter[str]:
    """What readers cannot fill in on a project's page, of what the page that it was made with has."""
    return Counter(f"page-lacks {name}" for name in sorted(controls_of(ours) - controls_of(page)))


def annotation_oddities(annotations: Iterable[SeenAnnotation]) -> Counter[str]:
    """What these annotations fill in that is not ours."""
    names = {
        (annotation.id, str(region.get("from_name")))
        for annotation in annotations
        for region in annotation.result
    }
    return Counter(f"unknown-control {name}" for _, name in names if name not in _ours())


def review_oddities(reviews: Iterable[ReviewRecord]) -> Counter[str]:
    """The sections that these reviews leave empty; an escape may."""
    return Counter(
        f"empty-text {name}"
        for review in reviews
        for name, text in ((FINDINGS, review.findings), (IMPRESSION, review.impression))
        if review.escape is None and not text
    )
