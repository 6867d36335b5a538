"""What a person sees who decides about an object in quarantine: the picture, suspicious places outlined."""

from __future__ import annotations

import cv2

from sonoloop.platform.archive.deidentify.clean import bounds_of
from sonoloop.platform.archive.deidentify.identifiers import identifiers_of
from sonoloop.platform.archive.deidentify.masks import Box, Mask, Why, only_regions
from sonoloop.platform.archive.deidentify.search import FIRST, SECOND, TextSearch, coloured
from sonoloop.platform.archive.instance import Frame, Instance

OUTLINES: dict[Why, tuple[int, int, int]] = {
    "identifier": (255, 40, 40),
    "text": (255, 200, 0),
    "unreadable-text": (0, 200, 255),
}
_REGION = (0, 160, 0)


def outlined(instance: Instance, frame_index: int) -> tuple[Frame, tuple[Mask, ...]]:
    """A frame as it is with lines around its text and its regions; and the text's boxes.

    ``(rows, columns, 3)``; regions green, text as `OUTLINES`.
    The picture is for the eyes of somebody who may see the archive; it belongs into no workspace.

    Raises:
        RejectedError: the frame cannot be decoded.
    """
    frame = instance.frame(frame_index)
    search = TextSearch(bounds_of(instance), identifiers_of(instance))
    for how in (FIRST, SECOND):
        search.look(only_regions(frame, instance.regions), how)
    picture = coloured(frame).copy()
    for region in instance.regions:
        _outline(picture, Box(region.left, region.top, region.right, region.bottom), _REGION)
    for mask in search.masks:
        _outline(picture, mask.box, OUTLINES[mask.why])
    return picture, tuple(search.masks)


def _outline(picture: Frame, box: Box, colour: tuple[int, int, int]) -> None:
    cv2.rectangle(picture, (box.left, box.top), (box.right, box.bottom), colour, thickness=1)
