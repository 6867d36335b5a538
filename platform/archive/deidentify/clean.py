"""Pixels leave the archive only de-identified, and what cannot be shown clean stays: fail closed.

What lies outside the declared ultrasound regions (banner, name, dates, logos) is black on every frame.
Inside, text is found and read; what is not a harmless scanner mark is black too, and then the picture is
looked at again in another way. If that finds text, or if the regions are the whole picture, a third look must
find none that can be read, or the picture cannot be verified. Where no region is declared, any text but
harmless marks means that. ``BurnedInAnnotation`` proves nothing when it says no; its yes is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sonoloop.platform.archive.deidentify.config import DeidentifyConfig
from sonoloop.platform.archive.deidentify.identifiers import identifiers_of
from sonoloop.platform.archive.deidentify.masks import Box, Mask, blackened, covered, only_regions
from sonoloop.platform.archive.deidentify.quarantine import Release
from sonoloop.platform.archive.deidentify.search import FIRST, SECOND, THIRD, Look, TextSearch
from sonoloop.platform.archive.instance import Frame, Instance
from sonoloop.platform.archive.sense.regions import covers_picture
from sonoloop.platform.errors import Reason, RejectedError

RULES_VERSION = "3"
"""Named in every audit row; changes whenever the same pixels could come out otherwise."""


@dataclass(frozen=True)
class FrameAudit:
    """What was done to one frame; counts are of the instance, whose frames share their masks."""

    masks: tuple[Mask, ...] = ()
    texts_found: int = 0
    texts_kept: int = 0
    rules_version: str = RULES_VERSION


@dataclass(frozen=True)
class Cleaned:
    """Clean frames and, one each, what was done to them."""

    frames: tuple[Frame, ...]
    audits: tuple[FrameAudit, ...]


def clean_frames(
    frames: Sequence[Frame], instance: Instance, config: DeidentifyConfig, *, release: Release | None = None
) -> Cleaned:
    """The frames, black wherever they could not be shown clean.

    Args:
        frames: Each ``(rows, columns)`` or ``(rows, columns, 3)``, uint8; left as they are.
        instance: Where they come from.
        config: The rules' settings.
        release: A person's decision on this very object: its masks are added, and nothing is rejected.

    Raises:
        RejectedError: `PHI_SUSPECTED`, they cannot be shown clean.
    """
    audit = audit_of(frames.__getitem__, range(len(frames)), range(len(frames)), instance, config, release)
    cleaned = tuple(apply_audit(frame, instance, audit) for frame in frames)
    return Cleaned(cleaned, (audit,) * len(frames))


def apply_audit(frame: Frame, instance: Instance, audit: FrameAudit) -> Frame:
    """The frame as the audit says."""
    return blackened(only_regions(frame, instance.regions), audit.masks)


def audit_of(
    frame: Callable[[int], Frame],
    first: Iterable[int],
    second: Sequence[int],
    instance: Instance,
    config: DeidentifyConfig,
    release: Release | None,
) -> FrameAudit:
    """What has to be masked in the frames of an instance.

    Args:
        frame: Gives a frame by its index; asked once for each look, and none is kept.
        first: Frames that are looked at first.
        second: Frames that are looked at again, and where that finds something, a third time.
        instance: Where they come from.
        config: The rules' settings.
        release: As in `clean_frames`.

    Raises:
        RejectedError: `PHI_SUSPECTED`.
    """
    masks = _known_masks(instance, release)
    if config.pictures_are_clean:
        return FrameAudit(tuple(masks))
    if not instance.regions and release is None and _says_burned_in(instance):
        raise _suspected("the header says that text is burned in, and declares no ultrasound region")
    search = TextSearch(bounds_of(instance), identifiers_of(instance), masks)

    def look(indices: Iterable[int], how: Look) -> list[Mask]:
        return [m for i in indices for m in search.look(only_regions(frame(i), instance.regions), how)]

    found = look(first, FIRST)
    late = look(second, SECOND)
    if release is None and found + late and _refuses_text(instance, config):
        raise _suspected("no ultrasound region is declared, and there is text other than scanner marks")
    if late or covers_picture(instance.regions, instance.rows, instance.columns):
        left = [mask for mask in look(second, THIRD) if mask.why != "unreadable-text"]
        if left and release is None:
            raise _suspected("text can still be read after masking")
    if release is None and masked_share(search) > config.max_masked_share:
        raise _suspected("the masked share of the picture is above index.deidentify.max_masked_share")
    return FrameAudit(tuple(search.masks), search.num_found, search.num_kept)


def masked_share(search: TextSearch) -> float:
    """Share of what was looked at that is masked for text."""
    left, top = search.bounds.left, search.bounds.top
    texts = (mask.box.moved(-left, -top) for mask in search.masks if mask.why not in _NOT_FOUND)
    return float(covered(texts, search.bounds.height, search.bounds.width).mean())


_NOT_FOUND = ("outside-regions", "released")


def _known_masks(instance: Instance, release: Release | None) -> list[Mask]:
    picture = Box(0, 0, instance.columns - 1, instance.rows - 1)
    masks = [Mask(*picture, why="outside-regions")] if instance.regions else []
    for box in release.masks if release else ():
        masks.append(Mask(*Box(*box).cut_to(instance.rows, instance.columns), why="released"))
    return masks


def bounds_of(instance: Instance) -> Box:
    """The part of the picture that is looked at: what holds all regions, or all of it."""
    regions = instance.regions
    if not regions:
        return Box(0, 0, instance.columns - 1, instance.rows - 1)
    return Box(
        min(region.left for region in regions),
        min(region.top for region in regions),
        max(region.right for region in regions),
        max(region.bottom for region in regions),
    )


def _refuses_text(instance: Instance, config: DeidentifyConfig) -> bool:
    return not instance.regions and config.text_without_regions == "quarantine"


def _says_burned_in(instance: Instance) -> bool:
    return instance.dataset is not None and instance.dataset.get("BurnedInAnnotation") == "YES"


def _suspected(detail: str) -> RejectedError:
    return RejectedError(Reason.PHI_SUSPECTED, detail)
