"""Training snapshots: the exact reviews a challenger learns from, frozen in ``training/<name>/``.

The name is the hash of what is in it: reviews, imported conversations, their sides and weights. The same
reviews give the same snapshot, and a snapshot can be made again from the rows that were there when it was
frozen (`recreate_snapshot`).

Which review answers a case is the rule of `sonoloop.platform.tables`, who stands on which side that of
`sonoloop.jobs.freezing.sides`, how much a row counts that of `sonoloop.jobs.freezing.weights`. What is held
out stands in a register for ever, and is looked for again whenever the training side is read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sonoloop.jobs.freezing.composing import Composed, compose
from sonoloop.jobs.freezing.config import SnapshotConfig
from sonoloop.jobs.freezing.material import missing_images, read_facts, read_imported, read_said
from sonoloop.jobs.freezing.register import (
    CONVERSATIONS_FILE,
    FACTS_FILE,
    ROWS_FILE,
    facts_of,
    read_past,
    register,
    register_older,
)
from sonoloop.jobs.freezing.rows import CaseFacts, ConversationRow, SnapshotRow, Split
from sonoloop.jobs.freezing.sides import case_sides, conversation_sides
from sonoloop.platform.errors import ConfigError, HeldOutError, NothingToDoError
from sonoloop.platform.workspace import Store

__all__ = [
    "ConversationRow",
    "Snapshot",
    "SnapshotRow",
    "Split",
    "check_apart",
    "freeze_snapshot",
    "read_conversations",
    "read_manifest",
    "read_rows",
    "read_snapshot",
]

logger = logging.getLogger(__name__)
MANIFEST, KNOWN_FILE = "snapshot.json", "known.parquet"


class Snapshot(BaseModel):
    """``training/<name>/snapshot.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(description="hash of its rows, their sides and weights")
    frozen_at: datetime = Field(description="what was said later is not in it")
    test_share: float = Field(description="share of patients held out by lot")
    settings: SnapshotConfig
    num_train: int = Field(description="reviews to learn from")
    num_test: int = Field(description="reviews held out by lot")
    num_gold: int = Field(description="reviews held out since their answer is known")
    num_left_out: int = Field(description="reviews on no side")
    left_out: dict[str, int] = Field(description="the same by reason")
    num_train_conversations: int = Field(description="imported conversations to learn from")
    num_test_conversations: int = Field(description="imported conversations held out")
    conversations_left_out: dict[str, int] = Field(description="imported conversations on no side, by reason")
    missing_images: tuple[str, ...] = Field(
        description="images of imported conversations that the store did not hold"
    )
    warnings: tuple[str, ...] = Field(description="what a person should know before training on it")


def freeze_snapshot(
    workspace: Store, settings: SnapshotConfig | None = None, *, test_share: float
) -> Snapshot:
    """Freeze the current reviews; the same reviews give the same snapshot.

    Args:
        workspace: Where reviews, cases and imported sets lie.
        settings: What it is made of; the defaults when absent.
        test_share: Share of patients held out, 0..1; those that stood on a side before stay there.

    Raises:
        NothingToDoError: no usable review, none to learn from, or fewer than ``settings.min_train``.
        ConfigError: an imported set is not there.
        StorageError: the workspace cannot be read or written.
    """
    settings = settings or SnapshotConfig()
    register_older(workspace)
    past, said, at = read_past(workspace), read_said(workspace), datetime.now(UTC)
    cases = read_facts(workspace, said.reviews, past, with_images_of=said.reviews)
    imported = read_imported(workspace, settings.imported)
    lacking = missing_images(workspace, {key for one in imported for key in one.image_keys})
    composed = compose(said, cases, imported, lacking, past, settings, test_share=test_share)
    _refuse_too_few(composed, settings)
    stored = read_manifest(workspace, composed.name) if _is_frozen(workspace, composed.name) else None
    frozen_at = at if stored is None else stored.frozen_at
    snapshot = _snapshot(composed, settings, lacking, test_share=test_share, frozen_at=frozen_at)
    for warning in snapshot.warnings:
        logger.warning("snapshot %s: %s", snapshot.name, warning)
    # The register first: whoever dies here has at most said too early who is held out.
    facts = facts_of(composed.rows, composed.conversations, cases)
    register(workspace, facts, past, snapshot=snapshot.name, at=at)
    if stored is None:
        _write(workspace, snapshot, composed, cases)
    return snapshot


def read_snapshot(workspace: Store, name: str, split: Split) -> list[SnapshotRow]:
    """The reviews on one side of a snapshot, ordered by case id.

    Raises:
        ConfigError: no such snapshot.
        HeldOutError: the training side is asked for, and a case of it must not be trained on any more.
    """
    rows = [row for row in read_rows(workspace, name) if row.split == split]
    if split == "train":
        check_apart(workspace, rows)
    return rows


def read_rows(workspace: Store, name: str) -> list[SnapshotRow]:
    """All reviews of a snapshot, to tell what was in it; to train, read a side with `read_snapshot`.

    Raises:
        ConfigError: no such snapshot.
    """
    if not workspace.exists("training", name, ROWS_FILE):
        raise ConfigError(f"no snapshot {name} in {workspace.uri}; see `sonoloop status`")
    table = workspace.read_table(SnapshotRow.ARROW, workspace.path("training", name, ROWS_FILE))
    return [SnapshotRow.from_row(row) for row in table.to_pylist()]


def read_conversations(workspace: Store, name: str, split: Split) -> list[ConversationRow]:
    """The imported conversations on one side of a snapshot, ordered by id; none in most snapshots.

    Raises:
        HeldOutError: the training side is asked for, and one of it must not be trained on any more.
    """
    if not workspace.exists("training", name, CONVERSATIONS_FILE):
        return []
    place = workspace.path("training", name, CONVERSATIONS_FILE)
    table = workspace.read_table(ConversationRow.ARROW, place)
    rows = [row for row in map(ConversationRow.from_row, table.to_pylist()) if row.split == split]
    if split == "train":
        check_apart(workspace, (), rows)
    return rows


def check_apart(
    workspace: Store, rows: Sequence[SnapshotRow], conversations: Sequence[ConversationRow] = ()
) -> None:
    """Prove that nothing of this is held out, nor its patient, nor what it shares a picture with.

    Asked again of the register, the ledger of tasks and the marks of near-duplicates as they are now: a case
    may have become gold since the rows were frozen.

    Raises:
        HeldOutError: one is; the message names it.
        StorageError: the workspace cannot be read.
    """
    past = read_past(workspace)
    cases = read_facts(workspace, [row.case_id for row in rows], past)
    known = {case.case_id for case in cases}
    gone = [
        CaseFacts(case_id=row.case_id, patient_key=row.patient_key)
        for row in rows
        if row.case_id not in known
    ]
    sides = case_sides([*cases, *gone], past, test_share=0)
    theirs = conversation_sides(conversations, cases, sides, past, test_share=0)
    bad = [row.case_id for row in rows if sides.members[row.case_id] != "train"]
    bad += [row.case_id for row in rows if "held-out" in past.sides("patient", row.patient_key)]
    bad += [one.conversation_id for one in conversations if theirs.members[one.conversation_id] != "train"]
    if bad:
        raise HeldOutError(
            f"{len(set(bad))} of {len(rows) + len(conversations)} rows to train on are held out, or share "
            f"patient or picture with what is, {bad[0]} among them; `sonoloop finetune` freezes a new one"
        )


def read_manifest(workspace: Store, name: str) -> Snapshot:
    """What a snapshot says of itself.

    Raises:
        ConfigError: no such snapshot, or one of an older version, which says less.
    """
    try:
        return Snapshot.model_validate_json(workspace.read_bytes("training", name, MANIFEST))
    except FileNotFoundError as err:
        raise ConfigError(f"no snapshot {name} in {workspace.uri}; see `sonoloop status`") from err
    except ValidationError as err:
        raise ConfigError(
            f"snapshot {name} was frozen by another version of sonoloop; its rows can be read, but not "
            "what it was made of"
        ) from err


def _is_frozen(workspace: Store, name: str) -> bool:
    """Whether it is whole: what says so is written last."""
    return workspace.exists("training", name, FACTS_FILE) and workspace.exists("training", name, MANIFEST)


def _write(workspace: Store, snapshot: Snapshot, composed: Composed, cases: Sequence[CaseFacts]) -> None:
    place = ("training", snapshot.name)
    known = pa.table({"review_id": pa.array(composed.known, pa.string())})
    workspace.write_table(known, *place, KNOWN_FILE)
    workspace.write_table(CaseFacts.table(list(cases)), *place, FACTS_FILE)
    if composed.conversations:
        conversations = ConversationRow.table(list(composed.conversations))
        workspace.write_table(conversations, *place, CONVERSATIONS_FILE)
    workspace.write_table(SnapshotRow.table(list(composed.rows)), *place, ROWS_FILE)
    workspace.write_bytes(snapshot.model_dump_json(indent=2).encode(), *place, MANIFEST)


def _snapshot(
    composed: Composed,
    settings: SnapshotConfig,
    lacking: frozenset[str],
    *,
    test_share: float,
    frozen_at: datetime,
) -> Snapshot:
    return Snapshot(
        name=composed.name,
        frozen_at=frozen_at,
        test_share=test_share,
        settings=settings,
        num_train=composed.num("train"),
        num_test=composed.num("test"),
        num_gold=composed.num("gold"),
        num_left_out=composed.left_out.total(),
        left_out=dict(sorted(composed.left_out.items())),
        num_train_conversations=composed.num_conversations("train"),
        num_test_conversations=composed.num_conversations("test"),
        conversations_left_out=dict(sorted(composed.conversations_left_out.items())),
        missing_images=tuple(sorted(lacking)),
        warnings=_warnings(composed),
    )


def _refuse_too_few(composed: Composed, settings: SnapshotConfig) -> None:
    held_out = composed.num("test") + composed.num("gold")
    found = composed.num("train") + composed.num_conversations("train")
    if found >= settings.min_train:
        return
    left_out = composed.left_out + composed.conversations_left_out
    reasons = ", ".join(f"{reason}: {num}" for reason, num in sorted(left_out.items())) or "none"
    if left_out["image-missing"] and not composed.rows:
        advice = (
            "images are gone from images/ of the workspace; bring them back, or run `sonoloop index` again"
        )
    else:
        advice = "run `sonoloop pull` after people have corrected drafts, or lower snapshot.min_train"
    raise NothingToDoError(
        f"{f'{found} reviews are too few' if found else 'no review'} to learn from, snapshot.min_train is "
        f"{settings.min_train} ({held_out} held out; left out: {reasons}); {advice}"
    )


def _warnings(composed: Composed) -> tuple[str, ...]:
    """What speaks against training on it, though it can be."""
    found = []
    train = [
        entities for row in composed.rows if row.split == "train" and (entities := row.parsed_entities())
    ]
    if train and len({entities.organ for entities in train}) == 1:
        found.append(
            f"all {len(train)} reviews to learn from name one organ, and a model may forget the others; have "
            "other organs reviewed, or import data of them"
        )
    if train and len({entities.lesion for entities in train}) == 1:
        found.append(
            f"all {len(train)} reviews to learn from say the same of lesions, and a model may learn to "
            "say it always; have cases of the other kind reviewed"
        )
    if train and len({row.patient_key for row in composed.rows if row.split == "train"}) == 1:
        found.append("all reviews to learn from are of one patient; have other patients reviewed")
    if not composed.num("test") + composed.num("gold"):
        found.append("no case is held out, so the gate will refuse; more patients must be reviewed")
    return tuple(found)
