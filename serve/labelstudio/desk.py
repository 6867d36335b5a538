"""The desk: takes the tasks of a call, answers in time with what is drafted, and sees to the rest.

Label Studio stores what an answer holds; what comes later goes through its API. So that a task gets one
prediction however often it is asked for, a task that is on the desk is not taken again, and stays there for
a little after its draft has left.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sonoloop.platform.errors import SonoloopError
from sonoloop.platform.labelstudio.predictions import Prediction
from sonoloop.platform.records import DraftRecord
from sonoloop.serve.config import DraftsConfig
from sonoloop.serve.drafts.case import DraftCase
from sonoloop.serve.labelstudio.cases import Status, TaskRefusedError
from sonoloop.serve.labelstudio.protocol import PredictRequest, SentTask
from sonoloop.serve.protocol import ApiError

logger = logging.getLogger(__name__)

STORED_AFTER_S = 30.0
"""How long a task with a draft stays on the desk: until Label Studio has stored the answer, and until a call
has come for which it looked up the tasks without a draft before that. Both take up to a few seconds (200
tasks, SQLite, 2 cores under load); with none at all, 3 of 30 tasks were seen to get two."""
DRAFT_ATTEMPTS = 3
PAUSE_S = 5.0
"""Before a chunk is given to the model again: a replica that was lost starts anew meanwhile."""


@dataclass(eq=False, slots=True)
class Sheet:
    """A task on the desk."""

    task: SentTask
    status: Status = "waiting"
    case: DraftCase | None = None
    prediction: Prediction | None = None


@dataclass(eq=False, slots=True)
class _Call:
    """The sheets of one call that are drafted; once it is answered, what follows is delivered."""

    request: PredictRequest
    sheets: list[Sheet]
    charge: Callable[[int], None]
    is_answered: bool = False


@dataclass(frozen=True)
class Hands:
    """What the desk has others do.

    Attributes:
        case_of: The case of a task; raises `TaskRefusedError`.
        draft: Draft some cases; raises `ApiError` where the model was lost.
        prediction_of: What shows a draft. Blocks; raises `ValueError` where it does not fit the page, and
            `SonoloopError` where something that it takes does not answer.
        deliver: Bring drafts to a project. Blocks; returns how many were new; raises `SonoloopError`.
    """

    case_of: Callable[[SentTask], DraftCase]
    draft: Callable[[list[DraftCase]], Awaitable[list[DraftRecord]]]
    prediction_of: Callable[[DraftRecord], Prediction]
    deliver: Callable[[int, Sequence[tuple[SentTask, Prediction]]], int]


class Desk:
    """The tasks that are being drafted, in the door's event loop.

    Args:
        config: Limits.
        hands: What others do.
        num_replicas: Chunks that are drafted at the same time; the desk's calls take turns, chunk by chunk,
            so that the first of them need not wait for the last. Other requests share the model's steps.
    """

    def __init__(self, config: DraftsConfig, hands: Hands, *, num_replicas: int) -> None:
        self._config, self._hands = config, hands
        self._turns = asyncio.Semaphore(num_replicas)
        self._delivery = asyncio.Lock()  # one at a time: where Label Studio is away, it holds one thread only
        self._on_desk: dict[int, Sheet] = {}  # by the task's id: who may take it off again
        self._for_page: set[Sheet] = set()
        self._under_way: set[asyncio.Task[None]] = set()
        self.counts: Counter[str] = Counter()

    @property
    def num_tasks(self) -> int:
        """Tasks on the desk."""
        return len(self._on_desk)

    async def predict(self, request: PredictRequest, charge: Callable[[int], None]) -> list[Sheet]:
        """A sheet for every task, in order, within ``budget_s``; the ones that wait are delivered later.

        Args:
            request: The tasks.
            charge: Takes the tokens of each chunk once it is drafted, also after the answer.

        Returns:
            Copies: what follows does not change them.
        """
        sheets = [self._take(task, request) for task in request.tasks]
        call = _Call(request, [sheet for sheet in sheets if sheet.status == "waiting"], charge)
        work = self._start(self._work(call))
        try:
            await asyncio.wait({work}, timeout=self._config.budget_s)
        except asyncio.CancelledError:  # the asker hung up: what was drafted did not arrive either
            call.is_answered = True
            self._hand_over(call, call.sheets)
            raise
        call.is_answered = True
        self._release(call, call.sheets, after_s=STORED_AFTER_S)
        return [replace(sheet) for sheet in sheets]

    def _take(self, task: SentTask, request: PredictRequest) -> Sheet:
        try:
            case = self._hands.case_of(task)
        except TaskRefusedError as err:
            return Sheet(task, err.status)
        if not request.is_interactive and task.id in self._on_desk:
            return Sheet(task, "asked-before")
        # Counted apart: a long selection does not keep a reader's page empty.
        if len(self._for_page if request.is_interactive else self._on_desk) >= self._config.max_waiting:
            return Sheet(task, "no-room")
        sheet = Sheet(task, case=case)
        if request.is_interactive:  # a fresh draft, which nobody stores
            self._for_page.add(sheet)
        else:
            self._on_desk[task.id] = sheet
        return sheet

    async def _work(self, call: _Call) -> None:
        begin = time.monotonic()
        try:
            await self._draft(call)
        except Exception as err:  # the boundary: no task stays on the desk for ever
            logger.error("drafting failed with %s", type(err).__name__)
            self._give_up(call)
        self._for_page.difference_update(call.sheets)
        counts = Counter(str(sheet.status) for sheet in call.sheets)
        self.counts.update(counts)
        logger.info("drafts for Label Studio: %s, %.1f s", dict(counts), time.monotonic() - begin)

    async def _draft(self, call: _Call) -> None:
        size = self._config.tasks_per_chunk
        for start in range(0, len(call.sheets), size):
            if call.is_answered and call.request.is_interactive:
                return
            chunk = call.sheets[start : start + size]
            await self._fill(call, chunk)
            if call.is_answered:
                self._hand_over(call, chunk)

    def _give_up(self, call: _Call) -> None:
        waiting = [sheet for sheet in call.sheets if sheet.status == "waiting"]
        for sheet in waiting:
            sheet.status = "failed"
        self._release(call, waiting)

    async def _fill(self, call: _Call, chunk: list[Sheet]) -> None:
        """Draft a chunk; every sheet has a prediction or the reason why not."""
        records = await self._drafted([sheet.case for sheet in chunk if sheet.case is not None])
        call.charge(sum(record.num_tokens or 0 for record in records if record is not None))
        found = await asyncio.to_thread(lambda: [self._shown(record) for record in records])
        for sheet, (status, prediction) in zip(chunk, found, strict=True):
            sheet.status, sheet.prediction = status, prediction

    async def _drafted(self, cases: list[DraftCase]) -> list[DraftRecord | None]:
        for attempt in range(DRAFT_ATTEMPTS):
            try:
                async with self._turns:
                    return list(await self._hands.draft(cases))
            except ApiError:
                if attempt + 1 < DRAFT_ATTEMPTS:
                    await asyncio.sleep(PAUSE_S)
        return [None] * len(cases)

    def _shown(self, record: DraftRecord | None) -> tuple[Status, Prediction | None]:
        if record is None:
            return "failed", None
        if record.reason is not None:
            return record.reason, None
        try:
            return "drafted", self._hands.prediction_of(record)
        except ValueError as err:  # names the case and the control, never what was written
            logger.warning("%s", err)
        except SonoloopError as err:  # costs this task alone
            logger.warning("a draft cannot be shown (%s)", type(err).__name__)
        return "failed", None

    def _hand_over(self, call: _Call, sheets: list[Sheet]) -> None:
        """Deliver what is drafted of these in the background."""
        drafted = [sheet for sheet in sheets if sheet.prediction is not None]
        if drafted and not call.request.is_interactive:
            self._start(self._deliver(call.request.project_id, drafted))
        self._release(call, [sheet for sheet in sheets if sheet.prediction is None])

    async def _deliver(self, project_id: int, sheets: list[Sheet]) -> None:
        drafted = [(sheet.task, sheet.prediction) for sheet in sheets if sheet.prediction is not None]
        after_s = STORED_AFTER_S
        try:
            async with self._delivery:
                num_new = await asyncio.to_thread(self._hands.deliver, project_id, drafted)
            self.counts["delivered"] += num_new
        except SonoloopError as err:
            after_s = 0.0
            self.counts["undelivered"] += len(drafted)
            logger.error("%d drafts did not reach Label Studio: %s; ask for them again", len(drafted), err)
        finally:
            self._take_off(sheets, after_s)

    def _release(self, call: _Call, sheets: list[Sheet], *, after_s: float = 0.0) -> None:
        """Take the sheets that are done off the desk, where those of the page never were."""
        if not call.request.is_interactive:
            self._take_off([sheet for sheet in sheets if sheet.status != "waiting"], after_s)

    def _take_off(self, sheets: list[Sheet], after_s: float) -> None:
        def take_off() -> None:
            for sheet in sheets:
                if self._on_desk.get(sheet.task.id) is sheet:  # a later call may have taken the task again
                    del self._on_desk[sheet.task.id]

        if after_s > 0:
            asyncio.get_running_loop().call_later(after_s, take_off)
        else:
            take_off()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)  # the loop itself keeps no reference
        task.add_done_callback(self._under_way.discard)
        return task
