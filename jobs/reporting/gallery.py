"""Some drafts beside what readers made of them: key frames, boxes, fields that changed, and both reports.

Pictures are the de-identified key frames of the workspace, made small; their number and bytes are bounded.
"""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from sonoloop.jobs.reporting.evidence import Evidence, Reading, choices
from sonoloop.platform.errors import StorageError
from sonoloop.platform.lexicon import LesionBox
from sonoloop.platform.records import CaseRecord, DraftRecord
from sonoloop.platform.tables import read_cases_of
from sonoloop.platform.workspace import Store

MOST_CASES, PICTURES_PER_CASE, SIDE = 12, 2, 320
MOST_BYTES = 2 * 2**20
"""Of all pictures together."""
_QUALITY = 75


@dataclass(frozen=True)
class Picture:
    """One key frame, made small, with the boxes on it.

    Attributes:
        data: Address of the JPEG, ``data:``.
        width: Pixels of the small picture.
        height: The same.
        drafted: Boxes of the draft on it.
        reviewed: Boxes of the reader.
    """

    data: str
    width: int
    height: int
    drafted: tuple[LesionBox, ...]
    reviewed: tuple[LesionBox, ...]


@dataclass(frozen=True)
class Exhibit:
    """One case: what was drafted, and what a reader made of it.

    Attributes:
        case_id: The case.
        organ: The reader's.
        model_version: What drafted it.
        reports: Findings and impression: the heading, the draft's text, the reader's.
        fields: Name, drafted value, reader's value, of all that one of them has.
        pictures: None where they are not wanted or not to be had.
    """

    case_id: str
    organ: str
    model_version: str
    reports: tuple[tuple[str, str, str], ...]
    fields: tuple[tuple[str, str | None, str | None], ...]
    pictures: tuple[Picture, ...]


def make_gallery(workspace: Store, evidence: Evidence, *, with_pictures: bool) -> list[Exhibit]:
    """The newest readings that started from a draft, organ by organ in turn.

    Raises:
        StorageError: the workspace cannot be read.
    """
    chosen = list(_chosen(evidence))
    cases = (
        read_cases_of(workspace, [reading.review.case_id for reading, _ in chosen]) if with_pictures else {}
    )
    left, exhibits = MOST_BYTES, []
    for reading, draft in chosen:
        pictures = tuple(_pictures(workspace, cases.get(draft.case_id), draft, reading, left))
        left -= sum(len(one.data) for one in pictures)
        exhibits.append(_exhibit(reading, draft, pictures))
    return exhibits


def _chosen(evidence: Evidence) -> Iterator[tuple[Reading, DraftRecord]]:
    by_organ: dict[str, list[tuple[Reading, DraftRecord]]] = defaultdict(list)
    for found in evidence.answers():
        for reading in found[-1:]:
            draft = evidence.drafts.get((reading.review.case_id, reading.review.model_version or ""))
            if draft is not None and reading.entities is not None:
                by_organ[reading.entities.organ].append((reading, draft))
    for group in by_organ.values():
        group.sort(key=lambda pair: pair[0].review.created_at)
    num_shown = 0
    while num_shown < MOST_CASES and any(by_organ.values()):
        for organ in sorted(by_organ):
            if by_organ[organ] and num_shown < MOST_CASES:
                num_shown += 1
                yield by_organ[organ].pop()


def _exhibit(reading: Reading, draft: DraftRecord, pictures: tuple[Picture, ...]) -> Exhibit:
    review = reading.review
    drafted, said = choices(draft.parsed_entities()), reading.values
    names = [*drafted, *(name for name in said if name not in drafted)]
    return Exhibit(
        case_id=review.case_id,
        organ=said["organ"],
        model_version=draft.model_version,
        reports=(
            ("Findings", draft.findings or "", review.findings),
            ("Impression", draft.impression or "", review.impression),
        ),
        fields=tuple((name.partition(".")[2] or name, drafted.get(name), said.get(name)) for name in names),
        pictures=pictures,
    )


def _pictures(
    workspace: Store, case: CaseRecord | None, draft: DraftRecord, reading: Reading, bytes_left: int
) -> Iterator[Picture]:
    """Frames with a box first; one that cannot be had is left out."""
    if case is None:
        return
    boxed = {box.image_index for box in (*draft.boxes, *reading.review.boxes)}
    order = sorted(range(len(case.images)), key=lambda at: (at not in boxed, at))
    for at in order[:PICTURES_PER_CASE]:
        try:
            data, width, height = _small(workspace.read_bytes(case.images[at].image_key))
        except (StorageError, OSError):
            continue
        bytes_left -= len(data)
        if bytes_left < 0:
            return
        yield Picture(data, width, height, _on(draft.boxes, at), _on(reading.review.boxes, at))


def _on(boxes: Sequence[LesionBox], image_index: int) -> tuple[LesionBox, ...]:
    return tuple(box for box in boxes if box.image_index == image_index)


def _small(png: bytes) -> tuple[str, int, int]:
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}", *picture.size
