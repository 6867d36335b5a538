from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http import HTTPStatus

import pytest

from sonoloop.serve.line import MAX_RETRY_AFTER_S, Line
from sonoloop.serve.protocol import ApiError


def refused(line: Line) -> ApiError:
    with pytest.raises(ApiError) as caught, line.place():
        pass
    return caught.value


@pytest.fixture
def fill() -> Iterator[Callable[[Line, int], None]]:
    """Takes places and keeps them."""
    with ExitStack() as taken:

        def take(line: Line, num: int) -> None:
            for _ in range(num):
                taken.enter_context(line.place())

        yield take


def test_the_line_holds_what_is_answered_and_what_waits_and_no_more(
    fill: Callable[[Line, int], None],
) -> None:
    line = Line(capacity=2, max_waiting=3)
    fill(line, 5)
    err = refused(line)
    assert (err.status, err.code) == (429, "overloaded")
    assert (line.num_inside, line.num_refused) == (5, 1)


def test_a_place_is_free_again_after_a_failure() -> None:
    line = Line(capacity=1, max_waiting=0)
    with pytest.raises(RuntimeError), line.place():
        raise RuntimeError
    with line.place():
        assert line.num_inside == 1


@pytest.mark.parametrize(("mean_stay_s", "expected_s"), [(0.01, 1), (8.0, 5), (80.0, 43), (800.0, 60)])
def test_askers_are_told_to_come_back_when_those_who_wait_are_let_in(
    fill: Callable[[Line, int], None], mean_stay_s: float, expected_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("sonoloop.serve.line.time.monotonic", lambda: clock[0])
    line = Line(capacity=16, max_waiting=16)
    for _ in range(50):
        with line.place():
            clock[0] += mean_stay_s
    fill(line, 32)
    # 32 requests that stay for 8 s each: four leave per second; 17 have to, before the next one is let in.
    assert refused(line).retry_after_s == expected_s <= MAX_RETRY_AFTER_S


def test_refusals_and_hang_ups_do_not_make_answers_look_shorter(
    fill: Callable[[Line, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("sonoloop.serve.line.time.monotonic", lambda: clock[0])
    line = Line(capacity=16, max_waiting=16)
    with line.place():
        clock[0] += 8.0
    bad_image = ApiError(HTTPStatus.BAD_REQUEST, "a bad image", code="invalid_image")
    for ended in (bad_image, GeneratorExit(), CancelledError()):
        for _ in range(50):
            with suppress(type(ended)), line.place():
                raise ended
    fill(line, 32)
    assert refused(line).retry_after_s == 5
