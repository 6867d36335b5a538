"""A draft whose report is streamed is the draft that a batch gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sonoloop.model import nano
from sonoloop.model.draft import Draft
from sonoloop.model.open_engine import open_engine
from sonoloop.model.prepared import CaseInput, PreparedCase, prepare
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.phantoms.case import draw_case
from sonoloop.platform.phantoms.render import render


def test_a_streamed_draft_is_the_draft_of_a_batch() -> None:
    engine = open_engine(nano.folder())
    images = tuple(render(draw_case(3, 1, "breast", "A"), moment).pixels for moment in (0, 9))
    case = prepare(engine.processor, CaseInput("phantom", images, "breast"))
    (whole,) = engine.draft([case])
    assert isinstance(whole, Draft)
    stream, pieces = engine.draft_stream(case), list[str]()
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as stop:
            streamed = stop.value
            break
    assert streamed == whole
    report = "".join(pieces)
    assert len(pieces) > 5
    assert whole.findings in report
    assert whole.impression in report
    assert '"organ"' not in report  # the entities are no part of it


def test_a_case_that_is_too_long_is_rejected_before_anything_is_written(
    noise_case: Callable[..., PreparedCase],
) -> None:
    engine = open_engine(nano.folder())
    engine.config = engine.config.model_copy(update={"max_prompt_tokens": 8})
    with pytest.raises(RejectedError) as refused:
        next(engine.draft_stream(noise_case(0)))
    assert refused.value.reason is Reason.TOO_MANY_TOKENS
