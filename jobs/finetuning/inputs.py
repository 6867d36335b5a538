"""What a training reads, frozen when it begins: ``runs/<run_id>/input.parquet``.

A training that goes on after weeks reads the same images in the same order, whatever was indexed meanwhile.

| column | type | meaning |
|---|---|---|
| case_id | string | the case, or the imported conversation |
| organ_hint | string | as of the case |
| image_keys | list<string> | the images that the model sees, in order |
| image_indices | list<int32> | which of the case's they are |
| num_tokens | int32 | of the case's conversation, images included, within a few |
| is_new | bool | the base was not trained on this review |
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa
import pyarrow.fs as pafs

from sonoloop.jobs.snapshot import ConversationRow, SnapshotRow, read_conversations, read_rows
from sonoloop.model.chosen import choose_images
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.patches import TOKEN_PX, fitted_size
from sonoloop.platform.errors import HeldOutError, StorageError
from sonoloop.platform.lexicon import Organ
from sonoloop.platform.records import CaseImage, CaseRecord, Record
from sonoloop.platform.storage_errors import storage_errors
from sonoloop.platform.tables import read_cases_of
from sonoloop.platform.workspace import Store

if TYPE_CHECKING:
    from sonoloop.model.processor import EchoVLMProcessor

FILE = "input.parquet"
LOOKED_AT_ONCE = 1000
NUM_NAMED = 3
"""Cases that a message names."""


class TrainingCase(Record):
    """One case of a training, by the columns above."""

    ARROW: ClassVar[pa.Schema] = pa.schema(
        [
            ("case_id", pa.string()),
            ("organ_hint", pa.string()),
            ("image_keys", pa.list_(pa.string())),
            ("image_indices", pa.list_(pa.int32())),
            ("num_tokens", pa.int32()),
            ("is_new", pa.bool_()),
        ]
    )
    case_id: str
    organ_hint: Organ | None = None
    image_keys: tuple[str, ...]
    image_indices: tuple[int, ...]
    num_tokens: int
    is_new: bool


def freeze_inputs(
    workspace: Store,
    run_id: str,
    rows: Sequence[SnapshotRow],
    conversations: Sequence[ConversationRow] = (),
    *,
    processor: EchoVLMProcessor,
    reading: EngineConfig,
    learnt: frozenset[str],
) -> list[TrainingCase]:
    """Look up the images of a snapshot's cases, see that all are there, and write them down.

    Args:
        workspace: Where cases and images lie.
        run_id: The run.
        rows: The training side of the snapshot.
        conversations: Imported ones of that side.
        processor: Of the base model.
        reading: How cases are read.
        learnt: Ids of reviews and conversations that the base was trained on.

    Raises:
        StorageError: a case or one of its images is gone.
    """
    found = read_cases_of(workspace, [row.case_id for row in rows])
    if gone := [row.case_id for row in rows if row.case_id not in found]:
        raise _gaps(gone, "is not in the workspace any more")
    cases = [_case(found[row.case_id], row, processor, reading, learnt) for row in rows]
    cases += [_conversation(row, processor, learnt) for row in conversations]
    check_images(workspace, cases)
    workspace.write_table(TrainingCase.table(cases), "runs", run_id, FILE)
    return cases


def read_inputs(workspace: Store, run_id: str) -> list[TrainingCase]:
    """What a run reads.

    Raises:
        FileNotFoundError: nothing was frozen.
    """
    table = workspace.read_table(TrainingCase.ARROW, workspace.path("runs", run_id, FILE))
    return [TrainingCase.from_row(row) for row in table.to_pylist()]


def check_images(workspace: Store, cases: Sequence[TrainingCase]) -> None:
    """See that every image is in the store, from its listing: a training is not to end over it after hours.

    Raises:
        StorageError: one is not; it names the cases.
    """
    keys = ((case.case_id, key) for case in cases for key in case.image_keys)
    gone: list[str] = []
    while some := list(islice(keys, LOOKED_AT_ONCE)):
        with storage_errors(workspace.uri):
            infos = workspace.fs.get_file_info([workspace.path(key) for _, key in some])
        gone += [
            case_id
            for (case_id, _), info in zip(some, infos, strict=True)
            if info.type != pafs.FileType.File or info.size == 0
        ]
    if gone:
        raise _gaps(list(dict.fromkeys(gone)), "has images that are gone from the store")


def _gaps(case_ids: Sequence[str], what: str) -> StorageError:
    named = ", ".join(case_ids[:NUM_NAMED])
    more = f" (and {len(case_ids) - NUM_NAMED} more)" if len(case_ids) > NUM_NAMED else ""
    return StorageError(
        f"case {named}{more} {what}, and a snapshot with gaps is not trained on; restore them, or run "
        "`sonoloop index` again so that their images are made anew"
    )


def _case(
    case: CaseRecord,
    row: SnapshotRow,
    processor: EchoVLMProcessor,
    reading: EngineConfig,
    learnt: frozenset[str],
) -> TrainingCase:
    chosen = choose_images(len(case.images), reading.max_images)
    images = [case.images[index] for index in chosen]
    return TrainingCase(
        case_id=case.case_id,
        organ_hint=case.organ_hint,
        image_keys=tuple(image.image_key for image in images),
        image_indices=chosen,
        num_tokens=sum(_num_tokens(image, processor) for image in images) + _num_words(row, processor),
        is_new=row.review_id not in learnt,
    )


def _conversation(row: ConversationRow, processor: EchoVLMProcessor, learnt: frozenset[str]) -> TrainingCase:
    """Its images' sizes are not known; an image counts as one at the pixel budget."""
    texts = processor.tokenizer([turn.text for turn in row.turns], add_special_tokens=False)["input_ids"]
    of_images = len(row.image_keys) * processor.cutter.max_pixels // TOKEN_PX**2
    return TrainingCase(
        case_id=row.conversation_id,
        image_keys=row.image_keys,
        image_indices=tuple(range(len(row.image_keys))),
        num_tokens=of_images + sum(map(len, texts)),
        is_new=row.conversation_id not in learnt,
    )


def _num_tokens(image: CaseImage, processor: EchoVLMProcessor) -> int:
    cutter = processor.cutter
    height, width = fitted_size(image.height, image.width, cutter.min_pixels, cutter.max_pixels)
    return height * width // TOKEN_PX**2


def _num_words(row: SnapshotRow, processor: EchoVLMProcessor) -> int:
    texts = [row.findings, row.impression, row.entities or ""]
    return sum(map(len, processor.tokenizer(texts, add_special_tokens=False)["input_ids"]))


def learnt_from(workspace: Store, snapshot: str | None) -> frozenset[str]:
    """Ids of reviews and conversations on the training side of a snapshot; none of no snapshot."""
    if snapshot is None:
        return frozenset()
    reviews = {row.review_id for row in read_rows(workspace, snapshot) if row.split == "train"}
    with suppress(HeldOutError):  # one has been held out since: they count as new
        reviews |= {row.conversation_id for row in read_conversations(workspace, snapshot, "train")}
    return frozenset(reviews)
