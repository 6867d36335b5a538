"""From what people said to the rows of a snapshot. Pure: the same material gives the same rows and name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sonoloop.jobs.freezing.config import SnapshotConfig
from sonoloop.jobs.freezing.material import Said
from sonoloop.jobs.freezing.register import Past
from sonoloop.jobs.freezing.rows import CaseFacts, ConversationRow, SnapshotRow, Split
from sonoloop.jobs.freezing.sides import Sides, case_sides, conversation_sides
from sonoloop.jobs.freezing.weights import agreement, changed_share, fitted, raw_weight, reader_factors
from sonoloop.platform.conversations.formats import CONTROL
from sonoloop.platform.records import ConversationRecord, ReviewRecord, content_id


@dataclass(frozen=True)
class Composed:
    """The rows of a snapshot, what was left out, by reason, and the ids of all review rows it is made of."""

    known: tuple[str, ...]
    rows: tuple[SnapshotRow, ...]
    conversations: tuple[ConversationRow, ...]
    left_out: Counter[str]
    conversations_left_out: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """Hash of the rows: reviews and conversations, each with its side and weight."""
        rows = (f"{row.review_id}:{row.split}:{row.weight}" for row in self.rows)
        conversations = (f"{row.conversation_id}:{row.split}:{row.weight}" for row in self.conversations)
        return content_id(*rows, *conversations, length=12)

    def num(self, split: Split) -> int:
        """Reviews on a side."""
        return sum(row.split == split for row in self.rows)

    def num_conversations(self, split: Split) -> int:
        """Conversations on a side."""
        return sum(row.split == split for row in self.conversations)


def compose(
    said: Said,
    cases: Sequence[CaseFacts],
    imported: Iterable[ConversationRecord],
    lacking: frozenset[str],
    past: Past,
    settings: SnapshotConfig,
    *,
    test_share: float,
) -> Composed:
    """The rows of a snapshot.

    Args:
        said: What people said.
        cases: Of `read_facts`, for all reviewed cases.
        imported: Conversations; of those that come twice the first one counts.
        lacking: Images of conversations that the store does not hold.
        past: The register.
        settings: How rows are weighted.
        test_share: Share of patients held out, 0..1.
    """
    sides = case_sides(cases, past, test_share=test_share)
    by_id = {case.case_id: case for case in cases}
    left_out: Counter[str] = Counter()
    rows: list[SnapshotRow] = []
    for case_id, review in sorted(said.reviews.items()):
        reason = _unusable(review, by_id.get(case_id), case_id in said.disputed)
        side = reason or sides.members[case_id]
        if side in ("train", "held-out"):
            rows.append(_row(review, by_id[case_id], is_train=side == "train"))
        else:
            left_out[side] += 1
    conversations, theirs = _conversations(imported, lacking, cases, sides, past, test_share)
    return Composed(said.known, tuple(_weighted(rows, said, settings)), conversations, left_out, theirs)


def _unusable(review: ReviewRecord, case: CaseFacts | None, is_disputed: bool) -> str | None:
    """Why a review cannot be learned from or tested on, whoever it is of."""
    if case is None:
        return "case-gone"
    if review.entities is None:
        return "no-entities"
    if not (review.findings.strip() and review.impression.strip()):
        return "empty-report"
    if CONTROL in review.findings + review.impression:
        return "control-token"
    if is_disputed:
        return "disputed"
    return "image-missing" if case.lacks_images else None


def _row(review: ReviewRecord, case: CaseFacts, *, is_train: bool) -> SnapshotRow:
    split: Split = "train" if is_train else "gold" if case.is_gold else "test"
    return SnapshotRow(**review.model_dump(), patient_key=case.patient_key, split=split)


def _weighted(rows: Sequence[SnapshotRow], said: Said, settings: SnapshotConfig) -> list[SnapshotRow]:
    """The rows with weights on the training side."""
    factors = reader_factors(said.readers, settings.quality_prior)
    train = [row for row in rows if row.split == "train"]
    raw = [
        raw_weight(
            changed_share(row.origins),
            _agreement(said, row.case_id),
            factors.get(row.reader, 1.0),
            settings,
        )
        for row in train
    ]
    weights = fitted(raw, settings.min_weight, settings.max_weight)
    of_case = {row.case_id: weight for row, weight in zip(train, weights, strict=True)}
    return [row.model_copy(update={"weight": of_case.get(row.case_id, 1.0)}) for row in rows]


def _agreement(said: Said, case_id: str) -> float | None:
    readings = said.evidence.cases[case_id]
    return agreement(
        [one.values for one in readings if one.review.escape is None and not one.review.adjudicates]
    )


def _conversations(
    imported: Iterable[ConversationRecord],
    lacking: frozenset[str],
    cases: Sequence[CaseFacts],
    sides: Sides,
    past: Past,
    test_share: float,
) -> tuple[tuple[ConversationRow, ...], Counter[str]]:
    """The conversations with their sides, by id, and why the others have none."""
    found: dict[str, ConversationRecord] = {}
    left_out: Counter[str] = Counter()
    for one in imported:
        if one.conversation_id in found:
            left_out["duplicate"] += 1
        else:
            found[one.conversation_id] = one
    unique = [found[key] for key in sorted(found)]
    stand = conversation_sides(unique, cases, sides, past, test_share=test_share).members
    rows = []
    for one in unique:
        is_whole = one.image_keys and lacking.isdisjoint(one.image_keys)
        side = stand[one.conversation_id] if is_whole else "image-missing"
        if side in ("train", "held-out"):
            split: Split = "train" if side == "train" else "test"
            rows.append(ConversationRow(**one.model_dump(), split=split))
        else:
            left_out[side] += 1
    return tuple(rows), left_out
