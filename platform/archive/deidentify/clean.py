"""Pixels leave the archive only de-identified.

What lies outside the declared ultrasound regions (banner, name, dates, logos) is blacked out. An object
that declares no region cannot be shown clean here and is rejected, unless the configuration says that the
archive's pictures were cleaned before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from sonoloop.platform.archive.instance import Frame, Instance
from sonoloop.platform.archive.sense.regions import Region
from sonoloop.platform.errors import Reason, RejectedError

RULES_VERSION = "1"
"""Named in every audit row; changes whenever the same pixels could come out otherwise."""


class DeidentifyConfig(BaseModel):
    """How pixels are cleaned."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    pictures_are_clean: bool = Field(
        default=False,
        description="accept objects without declared ultrasound regions; only for archives cleaned before",
    )


@dataclass(frozen=True)
class Mask:
    """A blackened rectangle, bounds in pixels, both ends inside; ``why`` is a code, never the text."""

    left: int
    top: int
    right: int
    bottom: int
    why: str


@dataclass(frozen=True)
class FrameAudit:
    """What was done to one frame."""

    masks: tuple[Mask, ...] = ()
    texts_found: int = 0
    texts_kept: int = 0


@dataclass(frozen=True)
class Cleaned:
    """Clean frames and, one each, what was done to them."""

    frames: tuple[Frame, ...]
    audits: tuple[FrameAudit, ...]


def clean_frames(frames: Sequence[Frame], instance: Instance, config: DeidentifyConfig) -> Cleaned:
    """The frames, black wherever they could not be shown clean.

    Args:
        frames: Each ``(rows, columns)`` or ``(rows, columns, 3)``, uint8; left as they are.
        instance: Where they come from.
        config: The rules' settings.

    Raises:
        RejectedError: `PHI_SUSPECTED`, they cannot be shown clean.
    """
    if not instance.regions and not config.pictures_are_clean:
        raise RejectedError(
            Reason.PHI_SUSPECTED, "no ultrasound region is declared; text may lie in the pixels"
        )
    if not instance.regions:
        return Cleaned(tuple(frames), tuple(FrameAudit() for _ in frames))
    cleaned = tuple(_only_regions(frame, instance.regions) for frame in frames)
    return Cleaned(cleaned, tuple(FrameAudit() for _ in frames))


def _only_regions(frame: Frame, regions: tuple[Region, ...]) -> Frame:
    cleaned = np.zeros_like(frame)
    for region in regions:
        rows, columns = slice(region.top, region.bottom + 1), slice(region.left, region.right + 1)
        cleaned[rows, columns] = frame[rows, columns]
    return cleaned
