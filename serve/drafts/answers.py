"""The answer as JSON, in the parts in which it comes: frames, the report in pieces, the draft."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sonoloop.model.calibration import Calibrator, case_confidence, scaled_probabilities
from sonoloop.platform.archive.received import file_number
from sonoloop.platform.archive.rows import FrameRecord, MaskedBox
from sonoloop.platform.lexicon import LesionBox, Organ
from sonoloop.platform.records import CaseImage
from sonoloop.serve.drafts.case import DraftedCase
from sonoloop.serve.drafts.messages import StudyRead

FRAMES_PATH = "/v1/drafts/frames"
_CROPPED = "outside-regions"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class ShownFrame(_Part):
    """A key frame, de-identified."""

    image_index: int = Field(description="what boxes count by, from 0")
    frame_index: int = Field(description="of its instance, from 0")
    instance_id: str
    width: int = Field(description="pixels")
    height: int = Field(description="pixels")
    is_cropped: bool = Field(description="black outside the ultrasound regions that the header declares")
    masks: tuple[MaskedBox, ...] = Field(description="blackened rectangles, pixels, both ends inside")
    image: str | None = Field(
        description="data URI or address of the PNG; null where none was wanted, or none is kept"
    )


class Warned(_Part):
    """What the asker should know."""

    code: str = Field(description="masked-text, not-shown, beside-dicom, or the reason of a rejection")
    message: str
    file: int | None = Field(default=None, description="which of the files, from 0")


class FramesAnswer(_Part):
    """What is shown."""

    case_id: str
    organ_hint: Organ | None
    scanner: str | None
    frames: tuple[ShownFrame, ...]
    warnings: tuple[Warned, ...]


class DraftedEntity(_Part):
    """A field of the lexicon."""

    field: str
    value: str
    confidence: float | None = Field(description="0..1; null where the vocabulary left no choice")


class Kept(_Part):
    """What is in the workspace now."""

    case: Literal["new", "there before", "there with other frames", "withdrawn"] = Field(
        description="withdrawn: somebody saw patient data in it, and nothing was kept"
    )
    draft: Literal["new", "there before", "not kept"]


class DraftAnswer(_Part):
    """What the model wrote."""

    model: str = Field(description="<name>/<version>")
    prompt_version: str
    language: Literal["en", "zh"] = Field(description="of findings and impression")
    findings: str
    impression: str
    organ: Organ
    entities: tuple[DraftedEntity, ...]
    boxes: tuple[LesionBox, ...]
    confidence: float | None = Field(description="expected share of values that a reader keeps, 0..1")
    calibrated: bool = Field(description="whether confidences were fitted on reviews of this model's drafts")
    expert_counts: tuple[tuple[int, ...], ...] | None = Field(
        description="layer by layer, how often the draft's tokens, read and written, chose each expert; "
        "null where the engine does not tell"
    )
    kept: Kept | None = Field(default=None, description="null unless it was to be kept")


class StudyAnswer(FramesAnswer, DraftAnswer):
    """Body of the answer to ``POST /v1/drafts``."""


def frames_answer(
    study: StudyRead, images: Sequence[bytes], how: Literal["inline", "links", "none"]
) -> FramesAnswer:
    """What is shown of a study.

    Args:
        study: As it was read.
        images: PNGs, in the order of the case's images.
        how: In which form the answer carries them.
    """
    written = {(row.instance_id, row.frame_index): row for row in study.frames if row.status == "written"}
    shown = [
        _shown(index, image, written[image.instance_id, image.frame_index], _image(image, data, how))
        for index, (image, data) in enumerate(zip(study.case.images, images, strict=True))
    ]
    return FramesAnswer(
        case_id=study.case.case_id,
        organ_hint=study.case.organ_hint,
        scanner=study.case.scanner,
        frames=tuple(shown),
        warnings=tuple(_warnings(study)),
    )


def _shown(index: int, image: CaseImage, row: FrameRecord, address: str | None) -> ShownFrame:
    return ShownFrame(
        image_index=index,
        frame_index=image.frame_index,
        instance_id=image.instance_id,
        width=image.width,
        height=image.height,
        is_cropped=any(mask.why == _CROPPED for mask in row.masks),
        masks=tuple(mask for mask in row.masks if mask.why != _CROPPED),
        image=address,
    )


def _image(image: CaseImage, data: bytes, how: Literal["inline", "links", "none"]) -> str | None:
    if how == "inline":
        return f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return f"{FRAMES_PATH}/{image.image_key.rpartition('/')[2]}" if how == "links" else None


def _warnings(study: StudyRead) -> Iterator[Warned]:
    rows = {row.instance_id: row for row in study.instances}
    masked = Counter[str]()
    for frame in study.frames:
        file = file_number(rows[frame.instance_id])
        if frame.reason is not None:
            yield Warned(code=frame.reason, message=frame.detail or "", file=file)
        elif num := sum(mask.why != _CROPPED for mask in frame.masks):
            masked[frame.instance_id] = num
    for instance_id, num in masked.items():
        message = f"places that may hold text were made black: {num}"
        yield Warned(code="masked-text", message=message, file=file_number(rows[instance_id]))
    for row in study.others:
        if row.reason is not None:
            yield Warned(code=row.reason, message=row.detail or "", file=file_number(row))
        else:
            message = "a picture beside DICOM files is no part of the study and was left out"
            yield Warned(code="beside-dicom", message=message, file=file_number(row))
    if study.num_spared:
        message = f"{study.num_spared} more files of the study are not shown (index.max_images)"
        yield Warned(code="not-shown", message=message)


def draft_answer(
    drafted: DraftedCase, calibrator: Calibrator | None, language: Literal["en", "zh"], kept: Kept | None
) -> DraftAnswer:
    """What the model wrote; only for rows with ``status == "draft"``.

    Args:
        drafted: What became of the case.
        calibrator: Of its model and prompt version, if there is one.
        language: Of its texts.
        kept: What was written into the workspace.
    """
    draft = drafted.record
    entities, scaled = draft.parsed_entities(), scaled_probabilities(draft, calibrator)
    return DraftAnswer(
        model=draft.model_version,
        prompt_version=draft.prompt_version,
        language=language,
        findings=draft.findings or "",
        impression=draft.impression or "",
        organ=entities.organ,
        entities=tuple(
            DraftedEntity(field=field, value=value, confidence=scaled.get(field))
            for field, value in entities.flat().items()
        ),
        boxes=draft.boxes,
        confidence=case_confidence(draft, calibrator),
        calibrated=calibrator is not None,
        expert_counts=drafted.expert_counts,
        kept=kept,
    )
