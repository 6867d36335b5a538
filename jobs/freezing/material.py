"""What a snapshot is made of, read from the workspace: what people said, and what is known of its cases.

Read are the rows of reviewed cases and of those that tell of them, never all cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from sonoloop.jobs.freezing.register import Past
from sonoloop.jobs.freezing.rows import CaseFacts
from sonoloop.jobs.reporting.evidence import Evidence, read_evidence
from sonoloop.jobs.reporting.quality import ReaderQuality, measure_readers
from sonoloop.platform.duplicates import read_groups_of
from sonoloop.platform.errors import ConfigError, StorageError
from sonoloop.platform.records import ConversationRecord, ReviewRecord
from sonoloop.platform.tables import current_reviews, disputed_ids, read_cases_of
from sonoloop.platform.tasks import gold_since
from sonoloop.platform.workspace import Store

ATTEMPTS_TO_READ = 5
LOOKED_FOR_AT_ONCE = 32
"""Images that are asked for at a time."""


@dataclass(frozen=True)
class Said:
    """What people said.

    Attributes:
        known: Ids of all rows of ``reviews/`` that it is made of, sorted.
        reviews: The answer to each case that has one.
        disputed: Cases that readers disagree on.
        evidence: All readings.
        readers: How good readers are.
    """

    known: tuple[str, ...]
    reviews: dict[str, ReviewRecord]
    disputed: frozenset[str]
    evidence: Evidence
    readers: tuple[ReaderQuality, ...]


def read_said(workspace: Store) -> Said:
    """Everything that was said so far; read again where a pull adds to it meanwhile.

    Raises:
        StorageError: the workspace cannot be read, or changes faster than it can be.
    """
    known = _known(workspace)
    for _ in range(ATTEMPTS_TO_READ):
        evidence = read_evidence(workspace, with_drafts=False)
        reviews, disputed = current_reviews(workspace), frozenset(disputed_ids(workspace))
        before, known = known, _known(workspace)
        if known == before:
            return Said(known, reviews, disputed, evidence, measure_readers(evidence))
    raise StorageError(
        f"reviews/ of {workspace.uri} grows faster than it can be read; stop pulling meanwhile"
    )


def _known(workspace: Store) -> tuple[str, ...]:
    schema = pa.schema([ReviewRecord.ARROW.field("review_id")])
    return tuple(sorted(workspace.read_tables(schema, "reviews")["review_id"].to_pylist()))


def read_facts(
    workspace: Store, case_ids: Iterable[str], past: Past, *, with_images_of: Iterable[str] = ()
) -> list[CaseFacts]:
    """What is known of these cases and of all that may tell of them, by case id.

    Args:
        workspace: Where cases, marks of near-duplicates, the ledger of tasks and images lie.
        case_ids: The cases.
        past: The register.
        with_images_of: Cases whose images are looked for in the store.

    Raises:
        StorageError: the workspace cannot be read.
    """
    gold = {case_id for _, case_id in gold_since(workspace)}
    asked = {*case_ids, *gold, *past.all_of("case")}
    groups = read_groups_of(workspace, asked)
    cases = read_cases_of(workspace, asked | groups.keys())
    images = {case_id: tuple(image.image_key for image in case.images) for case_id, case in cases.items()}
    looked_for = {case_id: images[case_id] for case_id in with_images_of if case_id in cases}
    gone = missing_images(workspace, {key for keys in looked_for.values() for key in keys})
    return [
        CaseFacts(
            case_id=case_id,
            patient_key=case.patient_key,
            group_key=groups.get(case_id),
            images=images[case_id],
            is_gold=case_id in gold,
            lacks_images=not gone.isdisjoint(looked_for.get(case_id, ())),
        )
        for case_id, case in sorted(cases.items())
    ]


def missing_images(workspace: Store, keys: Iterable[str]) -> frozenset[str]:
    """Which of these images the store does not hold; one request for each.

    Raises:
        StorageError: the store does not answer: nothing is known to be gone then.
    """
    asked = sorted(keys)
    with ThreadPoolExecutor(LOOKED_FOR_AT_ONCE) as pool:
        is_there = pool.map(workspace.exists, asked)
        return frozenset(key for key, there in zip(asked, is_there, strict=True) if not there)


def read_imported(workspace: Store, names: Sequence[str]) -> list[ConversationRecord]:
    """The conversations of imported sets, in the order of the names, then by id.

    Raises:
        ConfigError: a set is not there.
        StorageError: the workspace cannot be read.
    """
    found: list[ConversationRecord] = []
    for name in names:
        table = workspace.read_tables(ConversationRecord.ARROW, "imported", name, "conversations")
        if not table.num_rows:
            known = ", ".join(workspace.folders("imported")) or "none"
            raise ConfigError(
                f"snapshot.imported names {name}, which holds no conversation; imported sets: {known}"
            )
        found += map(ConversationRecord.from_row, table.sort_by("conversation_id").to_pylist())
    return found
