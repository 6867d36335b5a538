"""Free conversations: messages with PIL images in, an answer out, whole or in pieces."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict, get_args

import numpy as np
import torch
from PIL import Image
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from sonoloop.model.decoding import Decoder, Prompt, Sampling
from sonoloop.model.processor import PATCH_DIM, CaseInput, EchoVLMProcessor, Pixels, prepare
from sonoloop.model.prompts import Content, Message, Role

logger = logging.getLogger(__name__)


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
class ChatResult:
    """A finished answer; ``length`` means that it was cut at the limit of tokens."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"]


class _StopOnEvent(StoppingCriteria):  # type: ignore[misc]  # transformers ships no types
    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def __call__(self, input_ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._event.is_set(), device=input_ids.device)


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
        prepared = prepare(processor, CaseInput("chat", tuple(pictures)))
        patches, grids = prepared.pixel_values, prepared.image_grid_thw
    else:
        patches, grids = np.zeros((0, PATCH_DIM), np.float32), np.zeros((0, 3), np.int64)
    return Prompt(processor.token_ids(turns, grids), patches, grids)


def _part(part: ChatPart, pictures: list[Pixels]) -> Content:
    if part["type"] == "text":
        return {"type": "text", "text": part.get("text", "")}
    picture = part.get("image")
    if part["type"] != "image" or picture is None:
        raise ValueError("expected message parts of type text or image")
    pictures.append(np.asarray(picture.convert("RGB")))
    return {"type": "image"}


def stream_answer(decoder: Decoder, prompt: Prompt, sampling: Sampling) -> Generator[str, None, ChatResult]:
    """Pieces of text as the model writes them; the generator returns the whole answer.

    Closing the generator stops the model at its next token. What the model raises is raised here.
    """
    streamer = TextIteratorStreamer(decoder.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    stop = threading.Event()
    outcome: queue.SimpleQueue[list[int] | BaseException] = queue.SimpleQueue()

    def work() -> None:
        criteria = StoppingCriteriaList([_StopOnEvent(stop)])
        try:
            (ids,) = decoder.generate([prompt], sampling, streamer=streamer, stopping_criteria=criteria)
            outcome.put(ids)
        except BaseException as err:  # handed to the reader of the stream, which raises it
            outcome.put(err)
            streamer.end()

    threading.Thread(target=work, name="sonoloop-chat", daemon=True).start()
    try:
        yield from _pieces(streamer)
    finally:
        stop.set()
    answer = outcome.get()
    if isinstance(answer, BaseException):
        raise answer
    ended = decoder.has_ended(answer)
    return ChatResult(
        text=decoder.text(answer),
        prompt_tokens=len(prompt.token_ids),
        completion_tokens=len(answer),
        finish_reason="stop" if ended else "length",
    )


def _pieces(streamer: TextIteratorStreamer) -> Iterator[str]:
    for piece in streamer:
        if piece:
            yield piece
