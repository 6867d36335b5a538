"""Free conversations: what is asked, how it is to be answered, and what an answer is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict, get_args

import numpy as np
from PIL import Image

from sonoloop.model.frames import Pixels
from sonoloop.model.generation import Prompt
from sonoloop.model.patches import NO_PATCHES
from sonoloop.model.prepared import CaseInput, prepare
from sonoloop.model.prompts import Content, Message, Role

if TYPE_CHECKING:  # whose module takes seconds to import
    from sonoloop.model.processor import EchoVLMProcessor

MAX_TOP_LOGPROBS = 20


class ChatPart(TypedDict):
    """One part of a message: ``text`` with its text, or ``image`` with its picture."""

    type: Literal["text", "image"]
    text: NotRequired[str]
    image: NotRequired[Image.Image]


class ChatMessage(TypedDict):
    """One turn."""

    role: Role
    content: list[ChatPart]


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How an answer is written. Values outside their ranges raise ValueError.

    Attributes:
        max_new_tokens: Limit of the answer, its ending token included.
        temperature: 0 takes the most likely token, else one is drawn.
        top_p: Tokens are drawn from the most likely ones that together have this probability, ``(0, 1]``.
        seed: Of the draws.
        stop: The answer ends before the first of these strings.
        schema: JSON schema, as text, that the answer obeys; ``{}`` is any JSON object.
        top_logprobs: Alternatives told with each token's log-probability, 0..20; None: no log-probabilities.
            They are those of the distribution that tokens are taken from, before ``temperature`` and
            ``top_p``: under a schema, of the tokens that it admits.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    schema: str | None = None
    top_logprobs: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"expected max_new_tokens of at least 1, got {self.max_new_tokens}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"expected a temperature of at least 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"expected top_p above 0 and up to 1, got {self.top_p}")
        if not all(self.stop):
            raise ValueError("expected stop strings that are not empty")
        if self.top_logprobs is not None and not 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS:
            raise ValueError(f"expected top_logprobs in 0..{MAX_TOP_LOGPROBS}, got {self.top_logprobs}")


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of an answer.

    Attributes:
        token: Its text; where its bytes are not whole characters, with replacement characters.
        utf8: Its bytes.
        logprob: Natural logarithm of its probability before the temperature.
        top: The most likely tokens at its place, most likely first: text, bytes, log-probability.
    """

    token: str
    utf8: bytes
    logprob: float
    top: tuple[tuple[str, bytes, float], ...]


@dataclass(frozen=True, slots=True)
class ChatPiece:
    """A piece of an answer, and the tokens that it is made of where they were asked for."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatResult:
    """A finished answer; ``length`` means that it was cut at the limit of tokens."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"]
    logprobs: tuple[TokenLogprob, ...] = ()


def chat_prompt(processor: EchoVLMProcessor, messages: Sequence[ChatMessage]) -> Prompt:
    """Tokens and patches of a conversation.

    Raises:
        ValueError: no message, an unknown role or part, or a last message that is not the user's.
        RejectedError: an image cannot be used.
    """
    if not messages or messages[-1]["role"] != "user":
        raise ValueError("expected a conversation that ends with a message of the user")
    turns: list[Message] = []
    pictures: list[Pixels] = []
    for turn in messages:
        if turn["role"] not in get_args(Role):
            raise ValueError(f"expected one of the roles {', '.join(get_args(Role))}")
        turns.append({"role": turn["role"], "content": [_part(part, pictures) for part in turn["content"]]})
    if pictures:
        prepared = prepare(processor, CaseInput("chat", tuple(pictures)), max_images=len(pictures))
        patches, grids = prepared.patches, prepared.image_grid_thw
    else:
        patches, grids = NO_PATCHES, np.zeros((0, 3), np.int64)
    return Prompt(processor.token_ids(turns, grids), patches, grids)


def _part(part: ChatPart, pictures: list[Pixels]) -> Content:
    if part["type"] == "text":
        return {"type": "text", "text": part.get("text", "")}
    picture = part.get("image")
    if part["type"] != "image" or picture is None:
        raise ValueError("expected message parts of type text or image")
    pictures.append(np.asarray(picture.convert("RGB")))
    return {"type": "image"}
