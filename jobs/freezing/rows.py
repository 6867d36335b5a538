"""The rows of a training snapshot, ``training/<snapshot>/``.

``SnapshotRow`` (``reviews.parquet``): a ``ReviewRecord``, and

| column | dtype | meaning |
|---|---|---|
| patient_key | string | whom the case is of |
| split | string | ``train``, ``test`` or ``gold``; the last two no training ever sees |
| weight | double | how much the row counts, mean 1 over the training side; 1 in tables without the column |

``ConversationRow`` (``conversations.parquet``): a ``ConversationRecord``, ``split`` (never ``gold``) and
``weight``.

``CaseFacts`` (``cases.parquet``): what the sides depended on, of each reviewed case and of those that may
tell of one: what shares a picture with it, gold cases, cases that stood on a side before. Tables of cases
change, so that without these a snapshot could not be made again.

| column | dtype | meaning |
|---|---|---|
| case_id, patient_key | string | the case and whom it is of |
| group_key | string | its group of near-duplicates; null for a case that stands alone |
| images | list of string | workspace keys of its images |
| is_gold | bool | its answer is known, by the ledger of tasks |
| lacks_images | bool | it is reviewed, and images of it are gone from the store |
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import pyarrow as pa
from pydantic import Field

from sonoloop.platform.columns import added_column
from sonoloop.platform.records import ConversationRecord, Record, ReviewRecord

Split = Literal["train", "test", "gold"]
_WEIGHT = Field(default=1.0, gt=0, description="how much the row counts in training")


class SnapshotRow(ReviewRecord):
    """A review, whose patient it is about, on which side it stands and how much it counts."""

    ARROW: ClassVar[pa.Schema] = pa.schema(
        [
            *ReviewRecord.ARROW,
            ("patient_key", pa.string()),
            ("split", pa.string()),
            added_column("weight", pa.float64()),
        ]
    )
    patient_key: str
    split: Split
    weight: float = _WEIGHT

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """As `ReviewRecord.from_row`; in older tables every row counts the same."""
        return super().from_row({**row, "weight": row.get("weight") or 1.0})


class ConversationRow(ConversationRecord):
    """An imported conversation, on which side it stands and how much it counts."""

    ARROW: ClassVar[pa.Schema] = pa.schema(
        [*ConversationRecord.ARROW, ("split", pa.string()), ("weight", pa.float64())]
    )
    split: Literal["train", "test"]
    weight: float = _WEIGHT


class CaseFacts(Record):
    """What the sides of a snapshot depend on, of one case."""

    ARROW: ClassVar[pa.Schema] = pa.schema(
        [
            ("case_id", pa.string()),
            ("patient_key", pa.string()),
            ("group_key", pa.string()),
            ("images", pa.list_(pa.string())),
            ("is_gold", pa.bool_()),
            ("lacks_images", pa.bool_()),
        ]
    )
    case_id: str
    patient_key: str
    group_key: str | None = None
    images: tuple[str, ...] = ()
    is_gold: bool = False
    lacks_images: bool = False
