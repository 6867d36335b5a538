"""Many free conversations at once: each answered as it would be alone, a bad one rejected in its place."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sonoloop.model import nano
from sonoloop.model.chat import ChatMessage, ChatOptions
from sonoloop.model.engine import TransformersEngine
from sonoloop.model.engine_config import EngineConfig
from sonoloop.platform.errors import Reason, RejectedError


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return TransformersEngine(nano.folder(), EngineConfig(device="cpu", dtype="float32"))


def question(text: str, *, seed: int | None = None) -> list[ChatMessage]:
    if seed is None:
        return [{"role": "user", "content": [{"type": "text", "text": text}]}]
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    return [
        {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": text}]}
    ]


def test_answers_are_those_of_single_conversations_and_a_bad_one_stays_alone(
    engine: TransformersEngine,
) -> None:
    tiny = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    bad: list[ChatMessage] = [{"role": "user", "content": [{"type": "image", "image": tiny}]}]
    asked = [question("Report.", seed=1), bad, question("word " * 9000), question("What is it?")]
    first, unusable, too_long, last = engine.answer(asked, max_new_tokens=12)
    assert isinstance(unusable, RejectedError)
    assert unusable.reason is Reason.NOT_AN_IMAGE
    assert isinstance(too_long, RejectedError)
    assert too_long.reason is Reason.TOO_MANY_TOKENS
    assert first == engine.chat(asked[0], ChatOptions(max_new_tokens=12))
    assert last == engine.chat(asked[3], ChatOptions(max_new_tokens=12))


def test_no_conversation_has_no_answer(engine: TransformersEngine) -> None:
    assert engine.answer([]) == []
