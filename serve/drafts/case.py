"""A case on its way to the model, and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from sonoloop.platform.lexicon import Organ
from sonoloop.platform.records import DraftRecord

ImageSource: TypeAlias = str | bytes
"""A key frame: its workspace key, or the PNG itself."""


@dataclass(frozen=True, slots=True)
class DraftCase:
    """A case as the replica needs it.

    Attributes:
        case_id: The case.
        organ_hint: The organ where it is known beforehand.
        images: All its key frames, in reading order.
    """

    case_id: str
    organ_hint: Organ | None
    images: tuple[ImageSource, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class DraftedCase:
    """What became of a case.

    Attributes:
        record: Its draft or rejection.
        expert_counts: By layer, then expert: how often the case's tokens chose it; None for a rejection, or
            from an engine that does not tell.
    """

    record: DraftRecord
    expert_counts: tuple[tuple[int, ...], ...] | None = None


CaseEvent: TypeAlias = str | DraftedCase
"""A piece of the report; at the end what became of the case."""
