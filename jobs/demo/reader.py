"""The scripted reader: a simulation of a person who corrects drafts in Label Studio, from the truth.

It keeps what is right, corrects what is wrong and, now and then, makes a mistake of its own. It works through
Label Studio's API on the tasks and predictions that a person would see.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import cast

from sonoloop.jobs.demo.progress import Steps
from sonoloop.jobs.evaluating.described import described_draft
from sonoloop.model.metrics import Described, iou
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.predictions import model_version_of
from sonoloop.platform.labelstudio.regions import PageContent, Region, corrected_regions
from sonoloop.platform.lexicon import Entities, LesionBox, Organ, field_values, fields
from sonoloop.platform.records import DraftRecord

ERROR_RATE = 0.03
"""Share of cases in which the reader gets one entity value wrong."""
KEEP_BOX_IOU = 0.7
SECONDS_PER_CASE, SECONDS_PER_EDIT = 15.0, 6.0
"""Simulated lead time."""


def correct(draft: Described, truth: Described, *, seed: str) -> PageContent:
    """What the reader leaves on the page.

    A report section is kept where it names exactly the lexicon values that the true one names; a box is kept
    where it overlaps the true one well. ``seed`` fixes the reader's mistakes.
    """
    assert truth.entities is not None, "a phantom's truth has entities"
    organ = truth.entities.organ
    return PageContent(
        findings=_section(draft.findings, truth.findings, organ),
        impression=_section(draft.impression, truth.impression, organ),
        entities=_with_mistake(truth.entities, random.Random(seed)),
        boxes=_boxes(draft.boxes, truth.boxes),
    )


def read_tasks(
    door: LabelStudioDoor,
    project_id: int,
    drafts: Mapping[tuple[str, str], DraftRecord],
    truth: Mapping[str, Described],
    steps: Steps,
) -> int:
    """Annotate every task without annotation whose truth is known; returns how many.

    Args:
        door: The Label Studio.
        project_id: Our project in it.
        drafts: By case id and model version: what each prediction shows.
        truth: By case id.
        steps: Told about the progress.
    """
    done = 0
    for task in door.all_tasks(project_id):
        case_id = task.data.case_id
        if case_id is None or case_id not in truth or task.annotations or not task.predictions:
            continue
        prediction = max(task.predictions, key=lambda p: p.id)
        draft = described_draft(drafts.get((case_id, model_version_of(prediction.model_version or ""))))
        if draft is None:
            continue
        content = correct(draft, truth[case_id], seed=f"reader-{case_id}")
        regions = corrected_regions(content, cast("tuple[Region, ...]", prediction.result))
        num_edits = sum(region.get("origin") != "prediction" for region in regions)
        door.create_annotation(
            task.id,
            regions,
            parent_prediction=prediction.id,
            lead_time_s=SECONDS_PER_CASE + SECONDS_PER_EDIT * num_edits,
        )
        done += 1
        steps.tick(f"scripted reader: {done} cases")
    return done


def _section(drafted: str, true: str, organ: Organ) -> str:
    return drafted if drafted and _mentioned(drafted, organ) == _mentioned(true, organ) else true


def _mentioned(text: str, organ: Organ) -> set[str]:
    lower = text.lower()
    names = [name for name in fields(organ) if name != "lesion"]
    return {value for name in names for value in field_values(organ, name) if value.lower() in lower}


def _with_mistake(entities: Entities, rng: random.Random) -> Entities:
    asked = fields(entities.organ)
    candidates = [name for name in entities.flat() if name in asked and name not in ("organ", "lesion")]
    if not candidates or rng.random() >= ERROR_RATE:
        return entities
    name = rng.choice(candidates)
    others = [value for value in field_values(entities.organ, name) if value != getattr(entities, name)]
    return entities.model_copy(update={name: rng.choice(others)})


def _boxes(drafted: tuple[LesionBox, ...], true: tuple[LesionBox, ...]) -> tuple[LesionBox, ...]:
    kept = []
    for box in true:
        near = [d for d in drafted if d.image_index == box.image_index and iou(d, box) >= KEEP_BOX_IOU]
        kept.append(near[0] if near else box)
    return tuple(kept)
