"""Sending: a round of cases is read whole, sent in batches, and put in the ledger batch by batch.

A batch's rows are written after the server has confirmed it. What a killed push had sent and not put down is
found by the count of the project's tasks, and entered by `reconciling`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from sonoloop.jobs.pushing.drafted import Drafted, DraftedCases
from sonoloop.jobs.pushing.ledger import Ledger
from sonoloop.jobs.pushing.showing import Showing
from sonoloop.platform.labelstudio.upload import CaseUpload, Outcome, TaskWriter
from sonoloop.platform.tasks import Purpose, TaskRecord

logger = logging.getLogger(__name__)
T = TypeVar("T")

CASES_PER_ROUND = 2500
"""Drafts held whole at once; a round reads the ranges of drafts that its cases lie in."""


@dataclass(frozen=True, slots=True)
class _New:
    """A case without a task, ready to be sent."""

    one: Drafted
    strategy: str
    purpose: Purpose
    upload: CaseUpload


@dataclass
class Sender:
    """Sends cases of one project.

    Attributes:
        writer: Of the project.
        drafted: Where the cases come from.
        showing: How they are shown.
        ledger: Where they are put down.
        batch: Cases per call.
        on_progress: Told the number of cases of each finished batch.
        new: New tasks, by purpose.
        strategies: New tasks, by what chose them.
        outcomes: Of tasks that were there.
        num_two_readers: New tasks that two people are to read.
        num_unfit: Cases left out since their draft does not fit the page.
    """

    writer: TaskWriter
    drafted: DraftedCases
    showing: Showing
    ledger: Ledger
    batch: int
    on_progress: Callable[[int], None]
    new: Counter[Purpose] = field(default_factory=Counter)
    strategies: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    num_two_readers: int = 0
    num_unfit: int = 0

    @property
    def num_shown(self) -> int:
        """Drafts that were sent."""
        return sum(self.new.values()) - self.new["control"] + self.outcomes["predicted"]

    def make(self, chosen: Sequence[tuple[str, str]]) -> None:
        """Make tasks of cases that have none, in this order.

        Args:
            chosen: Case ids, each with what chose it.
        """
        for batch in _ahead(self._prepared(chosen)):
            self._send(batch)
            self.on_progress(len(batch))

    def _prepared(self, chosen: Sequence[tuple[str, str]]) -> Iterator[list[_New]]:
        """Batches as they are sent, checked against the page."""
        for round_ in _parts(chosen, CASES_PER_ROUND):
            whole = self.drafted.whole([case_id for case_id, _ in round_])
            for batch in _parts(round_, self.batch):
                found = (self._new(whole[case_id], why) for case_id, why in batch if case_id in whole)
                yield [new for new in found if new is not None]

    def _new(self, one: Drafted, strategy: str) -> _New | None:
        purpose = self.showing.purpose(one.case.case_id)
        upload = self._upload(one, purpose)
        return None if upload is None else _New(one, strategy, purpose, upload)

    def _send(self, batch: Sequence[_New]) -> None:
        placed = self.writer.make([new.upload for new in batch])
        self.ledger.write([self._row(new, placed[new.upload.case_id]) for new in batch])
        self.new.update(new.purpose for new in batch)
        self.strategies.update(new.strategy for new in batch)
        self.num_two_readers += sum(new.upload.num_readers > 1 for new in batch)

    def refresh(self, case_ids: Sequence[str]) -> None:
        """Bring tasks that are there up to date, unless somebody has worked on them."""
        for round_ in _parts(case_ids, CASES_PER_ROUND):
            whole = self.drafted.whole(round_)
            for batch in _parts(round_, self.batch):
                self._refresh_batch(self.ledger.rows(batch), whole)
                self.on_progress(len(batch))

    def _refresh_batch(self, rows: dict[str, TaskRecord], whole: dict[str, Drafted]) -> None:
        uploads = {}
        for case_id, row in rows.items():
            one = whole.get(case_id)
            if one is None or row.task_id is None:
                continue
            if (upload := self._upload(one, row.purpose)) is not None:
                uploads[row.task_id] = upload
        outcomes = self.writer.refresh(uploads)
        self.ledger.write(
            [
                self._after(rows[uploads[task_id].case_id], whole[uploads[task_id].case_id], outcome)
                for task_id, outcome in outcomes.items()
            ]
        )
        self.outcomes.update(outcomes.values())

    def _after(self, row: TaskRecord, one: Drafted, outcome: Outcome) -> TaskRecord:
        """The row of a task after `TaskWriter.refresh`."""
        if outcome == "gone":
            return row.model_copy(update={"state": "removed"})
        seen: dict[str, str | None] = {"shown": self.showing.shown(one, row.purpose)}
        if outcome != "kept":  # what somebody works on keeps the prediction that it has
            seen["model_version"] = self.showing.model_version(one, row.purpose)
        return row.model_copy(update=seen)

    def _upload(self, one: Drafted, purpose: Purpose) -> CaseUpload | None:
        try:
            return self.showing.upload(one, purpose)
        except ValueError:  # its message could quote the draft
            logger.warning("case %s: its draft does not fit the page and is left out", one.case.case_id)
            self.num_unfit += 1
            return None

    def _row(self, new: _New, task_id: int) -> TaskRecord:
        return TaskRecord(
            project=self.ledger.project,
            case_id=new.upload.case_id,
            task_id=task_id,
            purpose=new.purpose,
            strategy=new.strategy,
            num_readers=new.upload.num_readers,
            model_version=self.showing.model_version(new.one, new.purpose),
            state="sent",
            written_at=datetime.now(UTC),
            shown=self.showing.shown(new.one, new.purpose),
        )


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The items, none of them None, each made while the one before is worked on."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(lambda: next(items, None))
        while (item := coming.result()) is not None:
            coming = pool.submit(lambda: next(items, None))
            yield item


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
