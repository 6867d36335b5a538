"""What nano scores on phantoms that no training saw, and what is shipped beside the weights."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from sonoloop.model.draft import Draft
from sonoloop.model.engine import Engine
from sonoloop.model.metrics import Described, Scores, score
from sonoloop.model.nano.data import PhantomCase
from sonoloop.model.prepared import prepare
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.model.supervised import Target
from sonoloop.platform.lexicon import Entities

logger = logging.getLogger(__name__)

SCORES_FILE = "scores.json"


class NanoScores(BaseModel):
    """Figures on one set of phantoms, beside what a model that never looks would score."""

    model_config = ConfigDict(frozen=True)
    scores: Scores
    lesion_accuracy: float = Field(description="cases whose lesion status is right, 0..1")
    majority_entity_macro_f1: float = Field(description="entity macro-F1 of the commonest value everywhere")
    valid_share: float = Field(description="cases with a valid draft, 0..1")


class StoredScores(BaseModel):
    """What ``scores.json`` holds."""

    model_config = ConfigDict(frozen=True)
    seen: NanoScores = Field(description="the kind nano was trained on, held-out phantoms")
    unseen: NanoScores = Field(description="organs and scanner nano never saw")


def described(target: Target) -> Described:
    """A target as the metrics take it."""
    return Described(target.findings, target.impression, target.entities, target.boxes)


def evaluate(
    engine: Engine, processor: EchoVLMProcessor, cases: Sequence[PhantomCase], *, batch: int = 16
) -> NanoScores:
    """Draft phantoms with their organ named and compare with the truth.

    Raises:
        ValueError: there is no case.
    """
    drafts: list[Described | None] = []
    for start in range(0, len(cases), batch):
        prepared = [prepare(processor, case.input) for case in cases[start : start + batch]]
        drafts += [
            Described(d.findings, d.impression, d.entities, d.boxes) if isinstance(d, Draft) else None
            for d in engine.draft(prepared)
        ]
    truth = [described(case.target) for case in cases]
    right = sum(
        draft is not None
        and draft.entities is not None
        and draft.entities.lesion == case.target.entities.lesion
        for draft, case in zip(drafts, cases, strict=True)
    )
    return NanoScores(
        scores=score(drafts, truth),
        lesion_accuracy=right / len(cases),
        majority_entity_macro_f1=score(_majority(cases), truth).entity_macro_f1,
        valid_share=sum(draft is not None for draft in drafts) / len(cases),
    )


def _majority(cases: Sequence[PhantomCase]) -> list[Described | None]:
    """For each organ the commonest lesion status and, under it, the commonest value of every field."""
    entities = [case.target.entities for case in cases]
    return [
        Described("", "", _commonest([e for e in entities if e.organ == one.organ]), ()) for one in entities
    ]


def _commonest(entities: Sequence[Entities]) -> Entities:
    status = Counter(e.lesion for e in entities).most_common(1)[0][0]
    alike = [e.flat() for e in entities if e.lesion == status]
    values = {name: Counter(flat[name] for flat in alike).most_common(1)[0][0] for name in alike[0]}
    return type(entities[0]).model_validate(values)


def write_scores(stored: StoredScores, folder: Path) -> None:
    """Write ``scores.json`` beside the weights."""
    (folder / SCORES_FILE).write_text(json.dumps(stored.model_dump(), indent=2) + "\n")


def read_scores(folder: Path) -> StoredScores:
    """Read what `write_scores` wrote.

    Raises:
        FileNotFoundError: the folder holds no scores.
    """
    return StoredScores.model_validate_json((folder / SCORES_FILE).read_text())
