"""From Label Studio's annotations to reviews.

An annotation can hold what the page never offered: made through the API, by an older page, or on a customised
one. Nothing of that stops a pull: what cannot be read becomes "not assessed" or is left out, and is counted
under one of these names, followed by the control where there is one:

| problem | what was done |
|---|---|
| no-organ | the review has no entities; not counted where the reader escaped |
| unknown-value | an organ outside the lexicon: no entities; an escape: none; another field: "not assessed" |
| rounded-value | a number with a fraction: the nearest whole number |
| several-values | the last one counts |
| box-unreadable, box-outside, box-rotated | the box is left out |
| box-clipped | the box is cut at the image's edge |
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any, Literal, cast, get_args

from pydantic import SecretStr

from sonoloop.platform.identity import pseudonym
from sonoloop.platform.labelstudio.answers import SeenAnnotation, SeenTask
from sonoloop.platform.labelstudio.page import (
    BOX,
    ESCAPE,
    FINDINGS,
    IMPRESSION,
    LESION,
    ORGAN,
    control_name,
)
from sonoloop.platform.labelstudio.predictions import model_version_of
from sonoloop.platform.lexicon import (
    BY_ORGAN,
    NOT_ASSESSED,
    ORGANS,
    Entities,
    LesionBox,
    LesionStatus,
    Organ,
    entities_json,
    field_values,
    fields,
    number_range,
    numeric_fields,
    qualifiers,
)
from sonoloop.platform.records import Escape, ReviewRecord, content_id

BOXES = "boxes"
"""The key of all boxes together in ``ReviewRecord.origins``."""
FieldOrigin = Literal["prediction", "prediction-changed", "manual", "missing"]
RawRegion = dict[str, Any]


@dataclass
class TaskReviews:
    """What the annotations of some tasks gave."""

    reviews: list[ReviewRecord] = field(default_factory=list)
    num_cancelled: int = 0
    problems: Counter[str] = field(default_factory=Counter)


class _Reader:
    """Reads the regions of one annotation, noting problems and origins on the way."""

    def __init__(self, regions: Iterable[RawRegion], problems: Counter[str], drafted: frozenset[str]) -> None:
        self.drafted = drafted
        self.by_control: dict[str, list[RawRegion]] = {}
        for region in regions:
            self.by_control.setdefault(str(region.get("from_name")), []).append(region)
        self.problems = problems
        self.origins: dict[str, FieldOrigin] = {}

    def text(self, name: str) -> str:
        regions = self.by_control.get(name, [])
        self.origins[name] = _joint_origin(regions)
        return "\n".join(part for region in regions for part in _strings(region, "text")).rstrip()

    def escape(self) -> Escape | None:
        """Why the reader gave no answer; it is no drafted field and has no origin."""
        return cast("Escape | None", self._chosen(ESCAPE, get_args(Escape)))

    def choice(self, control: str, name: str, values: tuple[str, ...]) -> str | None:
        """The chosen value, or ``None`` where there is none or none that the lexicon knows."""
        self.origins[name] = _joint_origin(self.by_control.get(control, []))
        return self._chosen(control, values)

    def _chosen(self, control: str, values: tuple[str, ...]) -> str | None:
        regions = self.by_control.get(control, [])
        chosen = [value for region in regions for value in _strings(region, "choices")]
        if len(chosen) > 1:
            self.problems[f"several-values {control}"] += 1
        if chosen and chosen[-1] not in values:
            self.problems[f"unknown-value {control}"] += 1
            return None
        return chosen[-1] if chosen else None

    def entities(self) -> Entities | None:
        organ = cast("Organ | None", self.choice(ORGAN, ORGAN, ORGANS))
        lesion = self.choice(LESION, LESION, get_args(LesionStatus)) or NOT_ASSESSED
        if organ is None:
            if ESCAPE not in self.by_control:
                self.problems["no-organ"] += 1
            return None
        model = BY_ORGAN[organ]
        flat = {ORGAN: organ, LESION: lesion}
        for name in fields(organ):
            if name not in flat and (lesion == "present" or name not in model.descriptors()):
                values = field_values(organ, name)
                flat[name] = self.choice(control_name(organ, name), name, values) or NOT_ASSESSED
        if lesion == "present":
            flat |= self._qualifiers(organ)
        return model.model_validate(flat)

    def _qualifiers(self, organ: Organ) -> dict[str, str]:
        """Those that were given. One that neither the draft nor the reader gave has no origin either."""
        found: dict[str, str] = {}
        for name in qualifiers(organ):
            control = control_name(organ, name)
            if control not in self.by_control and control not in self.drafted:
                continue
            if name in numeric_fields(organ):
                value = self.number(control, name, *number_range(organ, name))
            else:
                value = self.choice(control, name, field_values(organ, name))
            if value is not None:
                found[name] = value
        return found

    def number(self, control: str, name: str, low: int, high: int) -> str | None:
        """The whole number given, as text, or ``None`` where there is none or none from low to high.

        An emptied number field is saved as 0; ``low`` is above 0 everywhere.
        """
        regions = self.by_control.get(control, [])
        self.origins[name] = _joint_origin(regions)
        if not regions:
            return None
        if len(regions) > 1:
            self.problems[f"several-values {control}"] += 1
        given = _number(regions[-1])
        if given == 0:
            return None
        whole = None if given is None else math.floor(given + 0.5)
        if whole is None or not low <= whole <= high:
            self.problems[f"unknown-value {control}"] += 1
            return None
        if whole != given:
            self.problems[f"rounded-value {control}"] += 1
        return str(whole)

    def boxes(self, num_images: int, num_drafted: int) -> tuple[LesionBox, ...]:
        regions = self.by_control.get(BOX, [])
        origin = _joint_origin(regions)
        # Label Studio keeps no trace of a deleted box; the others still say "prediction".
        self.origins[BOXES] = (
            "prediction-changed" if origin == "prediction" and len(regions) != num_drafted else origin
        )
        found = [self._box(region, num_images) for region in regions]
        return tuple(box for box in found if box is not None)

    def _box(self, region: RawRegion, num_images: int) -> LesionBox | None:
        value = region.get("value") or {}
        index = region.get("item_index") or 0
        try:
            x, y, width, height = (float(value[name]) / 100 for name in ("x", "y", "width", "height"))
        except (KeyError, TypeError, ValueError):
            self.problems["box-unreadable"] += 1
            return None
        if not all(map(math.isfinite, (x, y, width, height))) or not isinstance(index, int):
            self.problems["box-unreadable"] += 1
            return None
        if value.get("rotation"):
            self.problems["box-rotated"] += 1
            return None
        left, right = (min(max(edge, 0.0), 1.0) for edge in (x, x + width))
        top, bottom = (min(max(edge, 0.0), 1.0) for edge in (y, y + height))
        if right <= left or bottom <= top or not 0 <= index < num_images:
            self.problems["box-outside"] += 1
            return None
        if max(left - x, x + width - right, top - y, y + height - bottom) > 1e-6:
            self.problems["box-clipped"] += 1
            return LesionBox(image_index=index, x=left, y=top, width=right - left, height=bottom - top)
        return LesionBox(image_index=index, x=left, y=top, width=min(width, 1.0), height=min(height, 1.0))


def _strings(region: RawRegion, key: str) -> list[str]:
    values = (region.get("value") or {}).get(key) or []
    return [values] if isinstance(values, str) else [str(value) for value in values]


def _number(region: RawRegion) -> float | None:
    given = (region.get("value") or {}).get("number")
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        return None
    return float(given)


def _joint_origin(regions: list[RawRegion]) -> FieldOrigin:
    """One origin for a field: untouched only if every region is; regions without a mark are a person's."""
    if not regions:
        return "missing"
    origins = {str(region.get("origin")) for region in regions}
    if origins == {"prediction"}:
        return "prediction"
    return "prediction-changed" if origins & {"prediction", "prediction-changed"} else "manual"


def _parent(annotation: SeenAnnotation, task: SeenTask) -> tuple[str | None, list[str]]:
    """Model version of the draft an annotation started from, and the control of each of its regions."""
    # Not the annotation's own ``prediction`` field: that one is whatever the project's current model wrote.
    for prediction in task.predictions:
        if prediction.id == annotation.parent_prediction:
            name = prediction.model_version
            controls = [str(region.get("from_name")) for region in prediction.result]
            return (model_version_of(name) if name else None), controls
    return None, []


def review_of(
    annotation: SeenAnnotation, task: SeenTask, key: SecretStr, problems: Counter[str]
) -> ReviewRecord:
    """The review that one annotation amounts to.

    Args:
        annotation: One annotation of the task; not a cancelled one.
        task: Its task, with ``case_id`` and predictions.
        key: For the reader's pseudonym.
        problems: Counts what could not be taken as it was (see the module's table).

    Raises:
        ValueError: the task is not one of ours, or the annotation was cancelled.
    """
    if task.data.case_id is None or annotation.was_cancelled:
        raise ValueError(f"annotation {annotation.id} of task {task.id} is no review of a case")
    model_version, drafted = _parent(annotation, task)
    reader = _Reader(annotation.result, problems, frozenset(drafted))
    entities = reader.entities()
    updated_at = annotation.updated_at.astimezone(UTC)
    return ReviewRecord(
        review_id=content_id(str(annotation.id), updated_at.isoformat()),
        annotation_id=annotation.id,
        task_id=task.id,
        case_id=task.data.case_id,
        model_version=model_version,
        reader=pseudonym(key, "reader", str(annotation.completed_by)),
        findings=reader.text(FINDINGS),
        impression=reader.text(IMPRESSION),
        entities=None if entities is None else entities_json(entities),
        boxes=reader.boxes(len(task.data.images), drafted.count(BOX)),
        origins=reader.origins,
        lead_time_s=annotation.lead_time,
        created_at=annotation.created_at.astimezone(UTC),
        updated_at=updated_at,
        escape=reader.escape(),
    )


def reviews_of(tasks: Iterable[SeenTask], key: SecretStr) -> TaskReviews:
    """All reviews on some tasks; skipped (cancelled) annotations and foreign tasks give none.

    Returns:
        The reviews, the number of cancelled annotations, and the problems by name.
    """
    found = TaskReviews()
    for task in tasks:
        if task.data.case_id is None:
            found.problems["foreign-task"] += 1
            continue
        for annotation in task.annotations:
            if annotation.was_cancelled:
                found.num_cancelled += 1
            else:
                found.reviews.append(review_of(annotation, task, key, found.problems))
    return found
