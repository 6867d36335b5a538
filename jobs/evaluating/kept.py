"""Answers that a benchmark under way has already: killed and called again, it asks for the others only.

``KeptAnswer`` (``runs/answering-<key>/``), one row per item that was answered, or that the model failed on
for good; gone when the benchmark's figures are stored:

| column | dtype | meaning |
|---|---|---|
| item_hash | string | SHA-256 of what was asked, shown and expected |
| answer | string | what the model wrote; null where it failed |
| reason, detail | string | why it failed |
| num_tokens | int64 | tokens written |

The key is of the model and the engine's settings: others answer otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from sonoloop.jobs.config import AnnotateConfig
from sonoloop.jobs.evaluating.items import Answered
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.records import Record, content_id
from sonoloop.platform.settings import settings_hash
from sonoloop.platform.workspace import Store


class KeptAnswer(Record):
    """What the model made of an item."""

    ARROW: ClassVar[pa.Schema] = pa.schema(
        [
            *((name, pa.string()) for name in ("item_hash", "answer", "reason", "detail")),
            ("num_tokens", pa.int64()),
        ]
    )
    item_hash: str
    answer: str | None
    reason: Reason | None
    detail: str | None
    num_tokens: int

    @property
    def rejection(self) -> RejectedError | None:
        """Why there is no answer."""
        return None if self.reason is None else RejectedError(self.reason, self.detail or "")


@dataclass(frozen=True)
class KeptAnswers:
    """The answers of one model under one engine's settings."""

    workspace: Store
    key: str

    @classmethod
    def of(cls, workspace: Store, model_version: str, config: AnnotateConfig) -> KeptAnswers:
        """Where they lie."""
        return cls(workspace, content_id(model_version, settings_hash(config.engine), length=12))

    @property
    def _place(self) -> tuple[str, str]:
        return "runs", f"answering-{self.key}"

    def read(self) -> dict[str, KeptAnswer]:
        """All of them, by the items' hashes."""
        table = self.workspace.read_tables(KeptAnswer.ARROW, *self._place)
        return {row.item_hash: row for row in map(KeptAnswer.from_row, table.to_pylist())}

    def keep(self, answers: Sequence[Answered]) -> None:
        """Write what need not be asked again; the same answers again change nothing."""
        rows = [
            KeptAnswer(
                item_hash=one.item_hash,
                answer=one.answer,
                reason=one.rejection and one.rejection.reason,
                detail=one.rejection and one.rejection.detail,
                num_tokens=one.num_tokens,
            )
            for one in answers
            if one.is_scored and not (one.rejection and one.rejection.retryable)
        ]
        if rows:
            name = content_id(*(row.item_hash for row in rows), length=16)
            self.workspace.write_table(KeptAnswer.table(rows), *self._place, f"{name}.parquet")

    def forget(self) -> None:
        """Remove them all."""
        self.workspace.remove_folder(*self._place)
