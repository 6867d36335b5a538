"""Drafts against reviews, case by case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sacrebleu.metrics.bleu import BLEU

from sonoloop.jobs.evaluating.described import described_draft, described_review
from sonoloop.jobs.evaluating.outcomes import CaseOutcome, Judged
from sonoloop.jobs.snapshot import SnapshotRow
from sonoloop.model.calibration import MIN_VALUES, cross_calibrated, judged_values
from sonoloop.model.metrics import Described, num_edits, score
from sonoloop.model.metrics.boxes import best_iou
from sonoloop.model.metrics.labels import entity_labels
from sonoloop.platform.records import DraftRecord

NOTHING = Described("", "", None, ())


def outcomes_of(
    rows: Sequence[SnapshotRow],
    drafts: Mapping[str, DraftRecord],
    *,
    versions: tuple[str, str],
    scanners: Mapping[str, str | None],
    seconds: Mapping[str, float | None],
) -> list[CaseOutcome]:
    """One outcome for each review, in their order.

    Args:
        rows: Held-out reviews.
        drafts: Drafts and rejections of one model, by case id.
        versions: Model and prompt version of the drafts.
        scanners: By case id.
        seconds: Of one case, by run id.
    """
    outcomes = []
    for row in rows:
        draft = drafts.get(row.case_id)
        outcomes.append(
            _outcome(
                row,
                draft,
                versions,
                scanner=scanners.get(row.case_id),
                seconds=seconds.get(draft.run_id) if draft else None,
            )
        )
    return calibrated(outcomes, rows, drafts)


def calibrated(
    outcomes: Sequence[CaseOutcome], rows: Sequence[SnapshotRow], drafts: Mapping[str, DraftRecord]
) -> list[CaseOutcome]:
    """The outcomes with the verdicts on their values, each calibrated on the other patients' values."""
    values = []
    for row in rows:
        draft, reference = drafts.get(row.case_id), row.parsed_entities()
        known = draft and reference and judged_values(draft, reference, group=row.patient_key)
        values.append(known or [])
    flat = [value for own in values for value in own]
    enough = len(flat) >= MIN_VALUES and len({value.group for value in flat}) >= 2
    scaled = iter(cross_calibrated(flat) if enough else [None] * len(flat))
    return [
        outcome.judged_again(
            tuple(Judged(probability=v.probability, calibrated=next(scaled), kept=v.kept) for v in own)
        )
        for outcome, own in zip(outcomes, values, strict=True)
    ]


def _outcome(
    row: SnapshotRow,
    draft: DraftRecord | None,
    versions: tuple[str, str],
    *,
    scanner: str | None,
    seconds: float | None,
) -> CaseOutcome:
    given, wanted = described_draft(draft), described_review(row)
    said = given or NOTHING
    scores = score([given], [wanted])
    matched, said_words, wanted_words = _words(said, wanted)
    return CaseOutcome(
        case_id=row.case_id,
        patient_key=row.patient_key,
        organ=wanted.entities.organ if wanted.entities else None,
        scanner=scanner,
        model_version=versions[0],
        prompt_version=versions[1],
        drafted=given is not None,
        empty=given is not None and not (given.findings.strip() and given.impression.strip()),
        said=entity_labels(said.entities),
        wanted=entity_labels(wanted.entities),
        num_edits=num_edits(said, wanted),
        num_fields=_num_fields(said, wanted),
        edit_distance=scores.edit_distance,
        rouge_l=scores.rouge_l,
        matched_words=matched,
        said_words=said_words,
        wanted_words=wanted_words,
        box_ious=tuple(best_iou(box, said.boxes) for box in wanted.boxes),
        confidence=draft.confidence if draft else None,
        judged=(),
        num_tokens=draft.num_tokens if draft else None,
        seconds=seconds,
    )


def _num_fields(said: Described, wanted: Described) -> int:
    """What `num_edits` may count at most: entity fields, two sections, and the boxes as one."""
    names = [one.entities.flat().keys() if one.entities else () for one in (said, wanted)]
    return len(set().union(*names)) + 3


def _words(said: Described, wanted: Described) -> tuple[int, int, int]:
    """Matched, drafted and wanted words, counted as sacrebleu does for the corpus."""
    text = "" if said is NOTHING else said.report()
    found = BLEU(max_ngram_order=1, lowercase=True).corpus_score([text], [[wanted.report()]])
    return found.counts[0], found.sys_len, found.ref_len
