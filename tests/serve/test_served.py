"""What the door does where a replica is lost; the moments of a loss are chosen here, not met by chance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from sonoloop.model.chat import ChatOptions, ChatPiece, ChatResult
from sonoloop.serve.champion import Event, Question
from sonoloop.serve.protocol import ApiError
from sonoloop.serve.served import Served

QUESTION = Question([], ChatOptions())
PIECE, RESULT = ChatPiece("a cyst"), ChatResult("a cyst", 7, 3, "stop")


class Response:
    """What a handle's call gives: lists of events, or what went wrong in their place."""

    def __init__(self, items: list[list[Event] | Exception]) -> None:
        self._items, self.is_cancelled = items, False

    async def __aiter__(self) -> AsyncGenerator[list[Event], None]:
        for item in self._items:
            if isinstance(item, Exception):
                raise item
            yield item
        await asyncio.sleep(0)

    def cancel(self) -> None:
        self.is_cancelled = True


class Replicas:
    """A handle whose calls go as they are told, one after the other."""

    def __init__(self, *calls: list[list[Event] | Exception]) -> None:
        self.responses = [Response(call) for call in calls]
        self.answer, self.num_asked = self, 0

    def options(self, **_: Any) -> Replicas:
        return self

    def remote(self, _question: Question) -> Response:
        self.num_asked += 1
        return self.responses[self.num_asked - 1]

    @staticmethod
    def watched(events: Any, version: str) -> Any:
        assert version == "nano/1"
        return events


def answered(replicas: Replicas) -> list[Event]:
    served = Served("nano/1", replicas, replicas)  # type: ignore[arg-type]

    async def main() -> list[Event]:
        events = [event async for event in served.ask(QUESTION)]
        assert served.num_inside == 0
        return events

    return asyncio.run(main())


def test_a_question_is_asked_again_where_its_replica_died_before_it_said_anything() -> None:
    replicas = Replicas([ActorDiedError()], [[PIECE], [RESULT]])
    assert answered(replicas) == [PIECE, RESULT]
    assert all(response.is_cancelled for response in replicas.responses)


@pytest.mark.parametrize(
    ("calls", "num_asked"),
    [
        ([[[PIECE], ActorDiedError()], [[RESULT]]], 1),  # its asker has read a piece
        ([[ActorDiedError()], [ActorDiedError()], [[RESULT]]], 2),  # it may be the question that kills
        ([[RayTaskError("f", "traceback", ValueError())], [[RESULT]]], 1),  # the replica lives
    ],
)
def test_otherwise_the_asker_is_told_that_the_replica_was_lost(calls: Any, num_asked: int) -> None:
    replicas = Replicas(*calls)
    with pytest.raises(ApiError) as caught:
        answered(replicas)
    assert (caught.value.status, caught.value.code) == (503, "replica_lost")
    assert replicas.num_asked == num_asked
