"""The desk over a model that takes its time: what is answered, what comes later, and that nothing doubles.

A real model and a real Label Studio stand behind it in ``test_mlbackend``.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import pytest
from tests.serve.virtual_time import run

from sonoloop.platform.errors import Reason, ServiceError, StorageError
from sonoloop.platform.labelstudio.predictions import Prediction
from sonoloop.platform.records import DraftRecord
from sonoloop.serve.config import DraftsConfig
from sonoloop.serve.drafts.case import DraftCase
from sonoloop.serve.labelstudio import desk as desk_module
from sonoloop.serve.labelstudio.cases import TaskRefusedError
from sonoloop.serve.labelstudio.desk import Desk, Hands
from sonoloop.serve.labelstudio.protocol import PredictRequest, SentTask
from sonoloop.serve.protocol import ApiError


class World:
    """A model that takes ``chunk_s`` for a chunk, and a Label Studio that keeps what it is given."""

    def __init__(self, *, chunk_s: float = 0.0, budget_s: float = 5.0, max_waiting: int = 100) -> None:
        self.chunk_s = chunk_s
        self.lost = 0
        self.is_broken = False
        self.rejected: set[str] = set()
        self.unfit: set[str] = set()
        self.unreadable: set[str] = set()
        self.charged: list[int] = []
        self.is_down = False
        self.drafted: list[str] = []
        self.stored: Counter[int] = Counter()
        config = DraftsConfig(budget_s=budget_s, tasks_per_chunk=4, max_waiting=max_waiting)
        self.desk = Desk(
            config, Hands(self.case_of, self.draft, self.prediction_of, self.deliver), num_replicas=1
        )

    def case_of(self, task: SentTask) -> DraftCase:
        if "case_id" not in task.data:
            raise TaskRefusedError("not-a-case")
        return DraftCase(task.data["case_id"], None, ("images/x",))

    async def draft(self, cases: list[DraftCase]) -> list[DraftRecord]:
        await asyncio.sleep(self.chunk_s)
        if self.lost:
            self.lost -= 1
            raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "lost", code="replica_lost")
        if self.is_broken:
            raise TypeError("nobody thought of this")
        self.drafted += [case.case_id for case in cases]
        return [self._record(case.case_id) for case in cases]

    def _record(self, case_id: str) -> DraftRecord:
        rejected = case_id in self.rejected
        return DraftRecord(
            case_id=case_id,
            run_id="serve",
            model_version="nano/1",
            prompt_version="p",
            config_hash="h",
            status="rejected" if rejected else "draft",
            reason=Reason.IMAGE_MISSING if rejected else None,
            num_tokens=None if rejected else 100,
        )

    def prediction_of(self, draft: DraftRecord) -> Prediction:
        if draft.case_id in self.unfit:
            raise ValueError("the prediction does not fit the page in: organ")
        if draft.case_id in self.unreadable:
            raise StorageError("s3://bucket does not answer")
        return {"model_version": "nano/1@p", "score": 0.5, "result": []}

    def deliver(self, project_id: int, drafted: Sequence[tuple[SentTask, Prediction]]) -> int:
        if self.is_down:
            raise ServiceError("Label Studio does not answer")
        assert project_id == 7
        self.stored.update(task.id for task, _ in drafted)
        return len(drafted)

    async def ask(self, *ids: int, context: Any = None) -> list[str]:
        """Ask as Label Studio does, which stores what the answer holds; gives the statuses."""
        tasks = [{"id": number, "data": {"case_id": f"c{number}"}} for number in ids]
        body = {"project": "7.1", "tasks": tasks, "params": {"context": context}}
        sheets = await self.desk.predict(PredictRequest.model_validate(body), self.charged.append)
        assert [sheet.task.id for sheet in sheets] == list(ids)
        assert all((sheet.prediction is not None) == (sheet.status == "drafted") for sheet in sheets)
        if context is None:
            self.stored.update(sheet.task.id for sheet in sheets if sheet.prediction is not None)
        return [str(sheet.status) for sheet in sheets]

    async def settled(self) -> None:
        while self.desk._under_way:
            await asyncio.sleep(0.01)


async def until_let_go() -> None:
    """Longer than a stored task stays on the desk."""
    await asyncio.sleep(2 * desk_module.STORED_AFTER_S)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "PAUSE_S", 0.01)
    monkeypatch.setattr(desk_module, "STORED_AFTER_S", 0.5)


def test_what_there_is_time_for_is_answered_and_the_rest_follows_once() -> None:
    async def main() -> None:
        world = World(chunk_s=1.0, budget_s=2.5)
        statuses = await world.ask(*range(20))
        assert statuses == ["drafted"] * 8 + ["waiting"] * 12
        await world.settled()
        assert world.stored == Counter(range(20))
        assert world.drafted == [f"c{number}" for number in range(20)]
        await until_let_go()
        assert world.desk.num_tasks == 0
        assert world.desk.counts == Counter(drafted=20, delivered=12)

    run(main())


def test_a_task_that_is_under_way_is_not_drafted_again_for_a_second_asker() -> None:
    async def main() -> None:
        world = World(chunk_s=1.0, budget_s=1.5)
        first, second = await asyncio.gather(world.ask(*range(12)), world.ask(*range(8, 14)))
        assert first == ["drafted"] * 4 + ["waiting"] * 8
        assert second == ["asked-before"] * 4 + ["waiting"] * 2
        await world.settled()
        assert world.stored == Counter(range(14))

    run(main())


def test_a_task_can_be_asked_for_again_once_the_answer_was_stored() -> None:
    async def main() -> None:
        world = World()
        assert await world.ask(1) == ["drafted"]
        assert await world.ask(1) == ["asked-before"]
        await until_let_go()
        assert await world.ask(1) == ["drafted"]

    run(main())


def test_a_call_that_was_on_its_way_while_a_draft_was_delivered_does_not_double_it() -> None:
    async def main() -> None:
        world = World(chunk_s=0.1, budget_s=0.05)
        assert await world.ask(1) == ["waiting"]
        await world.settled()
        assert world.stored == Counter([1])
        assert await world.ask(1) == ["asked-before"]

    run(main())


def test_a_reader_who_opens_one_task_does_not_wait_for_a_long_selection() -> None:
    async def main() -> None:
        world = World(chunk_s=0.05)
        selection = asyncio.create_task(world.ask(*range(60)))
        await asyncio.sleep(0.01)
        assert await world.ask(99) == ["drafted"]
        assert len(world.drafted) <= 12
        await selection

    run(main())


def test_of_an_asker_who_hung_up_everything_is_delivered() -> None:
    async def main() -> None:
        world = World(chunk_s=0.1)
        asked = asyncio.create_task(world.ask(*range(12)))
        await asyncio.sleep(0.15)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await world.settled()
        assert world.stored == Counter(range(12))
        await until_let_go()
        assert world.desk.num_tasks == 0

    run(main())


def test_the_page_gets_a_fresh_draft_that_is_never_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "STORED_AFTER_S", 60)

    async def main() -> None:
        world = World(chunk_s=1.0, budget_s=1.5)
        batch = asyncio.create_task(world.ask(1))
        await asyncio.sleep(0.01)
        assert await world.ask(1, context={"result": []}) == ["waiting"]  # the model was busy for too long
        assert await batch == ["drafted"]
        await world.settled()
        assert await world.ask(1, context={"result": []}) == ["drafted"]
        await world.settled()
        assert world.stored == Counter([1])
        assert world.desk.num_tasks == 1  # the batch's, until it is stored

    run(main())


def test_a_case_without_a_draft_says_why_and_may_be_asked_for_again() -> None:
    async def main() -> None:
        world = World()
        world.rejected, world.unfit = {"c1"}, {"c2"}
        assert await world.ask(0, 1, 2) == ["drafted", "image-missing", "failed"]
        refused = PredictRequest.model_validate({"project": "7", "tasks": [{"id": 5, "data": {}}]})
        sheets = await world.desk.predict(refused, world.charged.append)
        assert [sheet.status for sheet in sheets] == ["not-a-case"]
        assert world.charged == [200]
        await until_let_go()
        assert world.desk.num_tasks == 0

    run(main())


def test_a_storage_that_does_not_answer_costs_one_task_and_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        world = World()
        world.unreadable = {"c1"}
        assert await world.ask(*range(6)) == ["drafted", "failed", *["drafted"] * 4]
        await until_let_go()
        world.unreadable = set()
        assert await world.ask(1) == ["drafted"]

    run(main())
    assert "a draft cannot be shown (StorageError)" in caplog.text
    assert "s3://" not in caplog.text


@pytest.mark.parametrize(("lost", "status"), [(2, "drafted"), (3, "failed")])
def test_a_lost_replica_is_waited_for_but_not_for_ever(lost: int, status: str) -> None:
    async def main() -> None:
        world = World()
        world.lost = lost
        assert await world.ask(1) == [status]

    run(main())


@pytest.mark.parametrize("budget_s", [5.0, 0.05])
def test_an_error_that_nobody_thought_of_leaves_no_task_on_the_desk(budget_s: float) -> None:
    async def main() -> None:
        world = World(chunk_s=0.1, budget_s=budget_s)
        world.is_broken = True
        assert await world.ask(1, 2) == ["failed" if budget_s > 1 else "waiting"] * 2
        await world.settled()
        await until_let_go()
        assert world.desk.num_tasks == 0

    run(main())


def test_a_call_that_failed_does_not_let_go_of_a_task_that_another_has_taken_since() -> None:
    async def main() -> None:
        world = World()
        world.is_broken = True
        assert await world.ask(1) == ["failed"]
        world.is_broken, world.chunk_s = False, 4 * desk_module.STORED_AFTER_S
        second = asyncio.create_task(world.ask(1))
        await until_let_go()
        assert await world.ask(1) == ["asked-before"]
        assert await second == ["drafted"]
        assert world.drafted == ["c1"]

    run(main())


def test_what_is_drafted_is_charged_chunk_by_chunk_also_after_the_answer() -> None:
    async def main() -> None:
        world = World(chunk_s=0.2, budget_s=0.05)
        assert await world.ask(*range(10)) == ["waiting"] * 10
        assert world.charged == []
        await world.settled()
        assert world.charged == [400, 400, 200]

    run(main())


def test_the_page_may_ask_for_as_many_tasks_as_may_wait_beside_those_that_do() -> None:
    async def main() -> None:
        world = World(chunk_s=0.1, max_waiting=5)
        selection = asyncio.create_task(world.ask(*range(5)))
        await asyncio.sleep(0.01)
        first, second = await asyncio.gather(
            world.ask(*range(4), context={}), world.ask(*range(4), context={})
        )
        assert first == ["drafted"] * 4
        assert second == ["drafted", *["no-room"] * 3]
        assert await selection == ["drafted"] * 5
        assert await world.ask(*range(4), context={}) == ["drafted"] * 4

    run(main())


def test_more_tasks_than_may_wait_are_sent_away() -> None:
    async def main() -> None:
        world = World(max_waiting=5)
        assert await world.ask(*range(7)) == ["drafted"] * 5 + ["no-room"] * 2

    run(main())


def test_drafts_that_label_studio_does_not_take_are_counted_and_can_be_asked_for_again() -> None:
    async def main() -> None:
        world = World(chunk_s=0.1, budget_s=0.05)
        world.is_down = True
        assert await world.ask(1) == ["waiting"]
        await world.settled()
        assert world.desk.counts["undelivered"] == 1
        world.is_down = False
        assert await world.ask(1) == ["waiting"]
        await world.settled()
        assert world.stored == Counter([1])

    run(main())
