"""Figures that compare drafts with references, from maintained libraries, each with its definition.

- BLEU-1: corpus BLEU over unigrams with brevity penalty, 0..1 (sacrebleu, tokenizer 13a, lower case).
  Source: Papineni et al., ACL 2002.
- ROUGE-L: mean over cases of the longest-common-subsequence F1, 0..1 (rouge-score, no stemming).
  Source: Lin, ACL Workshop 2004.
- entity macro-F1: every (field, value) that occurs in the references is a class; F1 per class over all cases,
  then the plain mean. The organ is part of each field's name and no class of its own; reference values
  ``not assessed`` are no class, nor are numbers (a size in mm).
- edit distance: mean over cases of the word-level Levenshtein distance between draft and reference report,
  divided by the longer one's number of words, 0..1.
- box IoU: mean over reference boxes of the best intersection over union with a drafted box of that image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field
from rapidfuzz.distance import Levenshtein
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from sonoloop.model.metrics.boxes import best_iou
from sonoloop.model.metrics.labels import entity_labels
from sonoloop.model.prompts import format_report
from sonoloop.platform.lexicon import Entities, LesionBox


@dataclass(frozen=True)
class Described:
    """What a draft or a reference says of one case; ``entities`` is ``None`` where there is none."""

    findings: str
    impression: str
    entities: Entities | None
    boxes: tuple[LesionBox, ...]

    def report(self) -> str:
        """Both sections as one text."""
        return format_report(self.findings, self.impression)


class Scores(BaseModel):
    """Figures over the same cases; ``num_cases`` includes those the model did not draft."""

    model_config = ConfigDict(frozen=True)
    num_cases: int
    num_missing: int = Field(description="cases without a valid draft; they count as empty")
    entity_macro_f1: float
    num_entity_classes: int
    bleu_1: float
    rouge_l: float
    edit_distance: float
    box_iou: float | None = Field(description="null where no reference has a box")


def score(drafts: Sequence[Described | None], references: Sequence[Described]) -> Scores:
    """Compare drafts with references, case by case in the same order.

    Args:
        drafts: ``None`` where the model gave no valid draft.
        references: Reviews or truth.

    Raises:
        ValueError: no case, or lengths that differ.
    """
    if not references or len(drafts) != len(references):
        raise ValueError(
            f"expected as many drafts as references and at least one, got {len(drafts)}, {len(references)}"
        )
    empty = Described("", "", None, ())
    given = [draft or empty for draft in drafts]
    texts = [draft.report() if draft else "" for draft in drafts]
    truths = [reference.report() for reference in references]
    f1 = entity_f1([d.entities for d in given], [r.entities for r in references])
    rouge = RougeScorer(["rougeL"])
    return Scores(
        num_cases=len(references),
        num_missing=sum(draft is None for draft in drafts),
        entity_macro_f1=sum(f1.values()) / len(f1) if f1 else 0.0,
        num_entity_classes=len(f1),
        bleu_1=min(1.0, BLEU(max_ngram_order=1, lowercase=True).corpus_score(texts, [truths]).score / 100),
        rouge_l=_mean([rouge.score(t, d)["rougeL"].fmeasure for t, d in zip(truths, texts, strict=True)]),
        edit_distance=_mean(
            [
                Levenshtein.normalized_distance(d.split(), t.split())
                for t, d in zip(truths, texts, strict=True)
            ]
        ),
        box_iou=_box_iou(given, references),
    )


def entity_f1(drafts: Sequence[Entities | None], references: Sequence[Entities | None]) -> dict[str, float]:
    """F1 of every one of `entity_labels` that occurs in the references."""
    hits, drafted, wanted = Counter[str](), Counter[str](), Counter[str]()
    for draft, reference in zip(drafts, references, strict=True):
        said, true = entity_labels(draft), entity_labels(reference)
        drafted.update(said)
        wanted.update(true)
        hits.update(said & true)
    return {label: 2 * hits[label] / (drafted[label] + wanted[label]) for label in sorted(wanted)}


def num_edits(draft: Described, reference: Described, *, min_iou: float = 0.5) -> int:
    """Fields a reader must touch to turn the draft into the reference.

    Entity values, the two report sections and the boxes count one each; boxes are right where as many are
    given and each reference box is met with at least ``min_iou``.
    """
    said = draft.entities.flat() if draft.entities else {}
    true = reference.entities.flat() if reference.entities else {}
    edits = sum(said.get(name) != true.get(name) for name in said.keys() | true.keys())
    edits += (draft.findings.strip() != reference.findings.strip()) + (
        draft.impression.strip() != reference.impression.strip()
    )
    same_boxes = len(draft.boxes) == len(reference.boxes) and all(
        best_iou(box, draft.boxes) >= min_iou for box in reference.boxes
    )
    return edits + (not same_boxes)


def _box_iou(drafts: Sequence[Described], references: Sequence[Described]) -> float | None:
    values = [
        best_iou(box, draft.boxes)
        for draft, reference in zip(drafts, references, strict=True)
        for box in reference.boxes
    ]
    return _mean(values) if values else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
